//! After an error the trait and all that is generated are still there, so that nothing else is an error.

use commlib::Node;

#[commlib::rpc_service(nmae = "s")]
trait Service {
    async fn good(&self, a: u8) -> u8;
    async fn bad(&self, a: &str) -> u8;
    async fn other(&self, a: u8) -> Result<u8, commlib::NoError>;
}

#[commlib::topic]
trait Topics {
    #[topic("a.{b}")]
    async fn bad(&self, m: u8);
    async fn good(&self, m: u8);
}

struct Handler;

impl Service for Handler {
    async fn good(&self, a: u8) -> u8 {
        a
    }
    async fn bad(&self, _: &str) -> u8 {
        1
    }
    async fn other(&self, a: u8) -> Result<u8, commlib::NoError> {
        Ok(a)
    }
}

impl Topics for Handler {
    async fn bad(&self, _: u8) {}
    async fn good(&self, _: u8) {}
}

async fn serve(node: &Node) {
    let _ = node.serve(ServiceServer::new(Handler)).await;
    let _ = node.serve(TopicsHandler::new(Handler)).await;
}

async fn call(node: &Node) {
    let client = ServiceClient::new(node).clone();
    let sum: u8 = client.good(1).await.unwrap() + client.bad("b").await.unwrap();
    let _ = client.other(sum).await;
    let _ = ServiceClient::contract();
    let _ = TopicsPublisher::new(node).good(1).await;
    let _ = TopicsSubscriber::new(node).good();
}

fn main() {}
