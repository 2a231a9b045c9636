//! Each kind of trait has its own attribute.

#[commlib::rpc_service]
trait Service {
    #[topic("a.b")]
    async fn call(&self);
}

#[commlib::topic]
trait Topics {
    #[rpc(name = "a")]
    async fn told(&self, m: u8);
}

fn main() {}
