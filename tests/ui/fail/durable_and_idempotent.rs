//! A durable method runs at least once by itself.

#[commlib::rpc_service]
trait Service {
    #[rpc(durable)]
    #[rpc(idempotent)]
    async fn call(&self) -> u8;
    #[rpc(durable = true)]
    async fn other(&self) -> u8;
    #[rpc(durabel)]
    async fn third(&self) -> u8;
}

fn main() {}
