//! A server takes a handler that implements the trait.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8) -> u8;
}

struct Handler;

fn serve() {
    let _ = ServiceServer::new(Handler);
}

fn main() {}
