//! The error of a `Result` is part of the contract.

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> std::io::Result<u8>;
    async fn other(&self) -> std::fmt::Result;
}

fn main() {}
