//! The context argument stands at any position, under any name, and is no argument of the client.

use commlib::{MessageContext as Received, Node, RequestContext};

type Ctx = RequestContext;

#[commlib::rpc_service]
trait Service {
    async fn first(&self, ctx: &RequestContext, a: u8) -> u8;
    async fn last(&self, a: u8, _ctx: &commlib::RequestContext) -> u8;
    async fn marked(&self, a: u8, #[rpc(context)] context: &Ctx, b: u8) -> u8;
    #[rpc(body)]
    async fn alone(&self, ctx: &RequestContext, a: u8) -> u8;
}

#[commlib::topic]
trait Topics {
    #[topic("x.{a}.{b}")]
    async fn middle(&self, b: u8, #[topic(context)] ctx: &Received, a: String, m: u8);
}

pub(crate) fn main() {
    let _ = |node: &Node| {
        let client = ServiceClient::new(node);
        let _ = client.first(1);
        let _ = client.last(1);
        let _ = client.marked(1, 2);
        let _ = client.alone(1);
        let _ = TopicsPublisher::new(node).middle(1, String::new(), 2);
        let _ = TopicsSubscriber::new(node).middle(1, commlib::Any);
    };
}
