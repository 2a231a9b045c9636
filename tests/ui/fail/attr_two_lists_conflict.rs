//! Two lists are one list: a key is still given once.

#[commlib::rpc_service]
trait Service {
    #[rpc(timeout = "2s")]
    #[rpc(idempotent, timeout = "3s")]
    async fn call(&self);
}

fn main() {}
