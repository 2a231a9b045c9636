//! The error of a method must travel, and be an error.

#[derive(Debug)]
struct Failed;

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> Result<u8, Failed>;
}

fn main() {}
