//! `Self` means nothing to a client.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: Vec<Self>, b: Option<Self>);
}

fn main() {}
