//! `crate` takes a path.

#[commlib::rpc_service(crate = "commlib")]
trait Service {
    async fn call(&self);
}

#[commlib::topic(crate = commlib::<u8>)]
trait Topics {
    async fn told(&self, a: u8);
}

fn main() {}
