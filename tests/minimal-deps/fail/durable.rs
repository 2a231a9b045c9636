//! What is durable needs a feature of commlib, which this crate does not ask for.

#[messaging::rpc_service(crate = messaging)]
trait Service {
    async fn plain(&self) -> u8;
    #[rpc(durable)]
    async fn kept(&self) -> u8;
    #[rpc(durable, oneway)]
    async fn told(&self);
}

#[messaging::topic(crate = messaging)]
trait Topics {
    async fn best_effort(&self, message: u8);
    #[topic("stored", durable)]
    async fn stored(&self, message: u8);
}

fn main() {}
