//! Names on the wire have few characters.

#[commlib::rpc_service]
trait Service {
    #[rpc(name = "add numbers")]
    async fn one(&self);
    #[rpc(name = "a.b")]
    async fn two(&self);
    async fn größe(&self);
}

fn main() {}
