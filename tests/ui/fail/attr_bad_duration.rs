//! A timeout is a number and a unit, more than zero.

#[commlib::rpc_service]
trait Service {
    #[rpc(timeout = "2 seconds")]
    async fn one(&self);
    #[rpc(timeout = "0ms")]
    async fn two(&self);
    #[rpc(timeout = "5")]
    async fn three(&self);
}

fn main() {}
