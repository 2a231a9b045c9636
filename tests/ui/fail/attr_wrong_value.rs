//! Each key takes its own kind of value.

#[commlib::rpc_service]
trait Service {
    #[rpc(timeout = 2, idempotent = true, name)]
    async fn call(&self);
    #[rpc = "x"]
    async fn other(&self);
}

fn main() {}
