//! A method has fixed schemas.

#[commlib::rpc_service]
trait Service {
    async fn call<T>(&self, a: u8);
    async fn other<'a>(&'a self, a: u8);
}

fn main() {}
