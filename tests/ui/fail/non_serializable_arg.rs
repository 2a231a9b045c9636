//! A message type without the derives is one error, at the type, however often it is used.

struct Plain;

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8, plain: Plain, #[rpc(default)] b: u8) -> u8;
}

struct Handler;

impl Service for Handler {
    async fn call(&self, a: u8, _: Plain, _: u8) -> u8 {
        a
    }
}

async fn serve(node: &commlib::Node) {
    let _ = ServiceServer::new(Handler);
    let _ = ServiceClient::new(node).call(1, Plain, 2).await;
}

fn main() {}
