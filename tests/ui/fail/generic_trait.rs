//! A contract has fixed schemas.

#[commlib::rpc_service]
trait Service<T> {
    async fn call(&self, a: u8);
}

#[commlib::topic]
trait Topics<'a, const N: usize> {
    async fn told(&self, a: u8);
}

fn main() {}
