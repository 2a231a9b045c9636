//! A key is given once.

#[commlib::rpc_service]
trait Service {
    #[rpc(timeout = "2s", timeout = "3s")]
    async fn call(&self, #[rpc(default, default)] a: u8);
}

fn main() {}
