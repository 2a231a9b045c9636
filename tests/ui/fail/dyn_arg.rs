//! A message has one concrete type.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: Box<dyn ToString>) -> Result<u8, Box<dyn std::error::Error>>;
}

fn main() {}
