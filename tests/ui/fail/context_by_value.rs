//! The context is borrowed.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: commlib::RequestContext);
    async fn other(&self, a: &commlib::MessageContext);
}

fn main() {}
