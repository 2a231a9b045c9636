//! The macros work in a function, on types of that function.

use commlib::Node;

pub(crate) fn main() {
    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    struct Local(u8);

    #[commlib::rpc_service]
    trait Inner {
        async fn double(&self, a: Local) -> Local;
    }

    #[commlib::topic]
    trait Topics {
        #[topic("a.{side}")]
        async fn told(&self, side: u8, a: Local);
    }

    struct Handler;
    impl Inner for Handler {
        async fn double(&self, a: Local) -> Local {
            Local(a.0 * 2)
        }
    }
    impl Topics for Handler {
        async fn told(&self, _: u8, _: Local) {}
    }

    let _ = (InnerServer::new(Handler), TopicsHandler::new(Handler));
    let _ = |node: &Node| {
        let _ = InnerClient::new(node).double(Local(1));
        let _ = TopicsPublisher::new(node).told(1, Local(1));
        let _ = TopicsSubscriber::new(node).told(commlib::Any);
    };
}
