//! A key that belongs elsewhere is an error that says where.

#[commlib::rpc_service]
trait Service {
    #[rpc(default)]
    async fn call(&self, #[rpc(timeout = "2s")] a: u8);
}

fn main() {}
