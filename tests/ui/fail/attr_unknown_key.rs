//! An unknown key is an error that lists what is allowed.

#[commlib::rpc_service]
trait Service {
    #[rpc(tiemout = "2s", retries = 3)]
    async fn call(&self, #[rpc(rename = "b")] a: u8);
}

fn main() {}
