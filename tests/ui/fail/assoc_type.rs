//! A contract names its types.

#[commlib::rpc_service]
trait Service {
    type Item;
    const LIMIT: u8;
    async fn call(&self, a: u8);
}

fn main() {}
