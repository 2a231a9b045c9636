//! The error of a method implements `std::error::Error`.

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Failed;

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> Result<u8, Failed>;
}

fn main() {}
