//! `body` is for a sole argument.

#[commlib::rpc_service]
trait Service {
    #[rpc(body)]
    async fn one(&self, a: u8, b: u8);
    #[rpc(body)]
    async fn two(&self);
}

fn main() {}
