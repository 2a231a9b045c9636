//! `Self` means nothing to a client.

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> Result<Self, commlib::NoError>;
}

fn main() {}
