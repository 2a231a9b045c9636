//! An argument that may be absent needs a default.

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Item;

#[commlib::rpc_service]
trait Service {
    async fn call(&self, #[rpc(default)] item: Item);
}

fn main() {}
