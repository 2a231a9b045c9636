//! Two arguments can't share a key.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8, #[rpc(name = "a")] b: u8);
}

fn main() {}
