//! A type that is serializable but has no schema.

#[derive(serde::Serialize, serde::Deserialize)]
struct Half;

#[commlib::rpc_service]
trait Service {
    async fn call(&self, half: Half);
}

fn main() {}
