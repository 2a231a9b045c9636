//! Two methods can't share an address.

#[commlib::rpc_service]
trait Service {
    async fn call(&self);
    #[rpc(name = "call")]
    async fn other(&self);
}

fn main() {}
