//! Names of generated functions are taken.

#[commlib::rpc_service]
trait Service {
    async fn new(&self);
    async fn contract(&self);
}

fn main() {}
