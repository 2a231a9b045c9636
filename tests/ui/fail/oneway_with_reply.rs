//! Nothing comes back from a oneway method.

#[commlib::rpc_service]
trait Service {
    #[rpc(oneway)]
    async fn call(&self) -> u8;
    #[rpc(oneway, idempotent)]
    async fn other(&self);
}

fn main() {}
