//! A reply without the derives is an error at the type.

struct Plain;

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> Plain;
}

struct Handler;

impl Service for Handler {
    async fn call(&self) -> Plain {
        Plain
    }
}

fn serve() {
    let _ = ServiceServer::new(Handler);
}

fn main() {}
