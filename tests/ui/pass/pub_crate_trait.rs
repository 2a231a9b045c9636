//! Generated items are as visible as the trait.
#![deny(warnings, unreachable_pub)]

mod contracts {
    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    pub(crate) struct Private(pub(crate) u8);

    #[commlib::rpc_service]
    pub(crate) trait Service {
        async fn call(&self, a: Private) -> Private;
    }

    #[commlib::topic]
    pub(super) trait Topics {
        async fn told(&self, a: Private);
    }

    pub(crate) fn publish(node: &commlib::Node) {
        let _ = TopicsPublisher::new(node).told(Private(1));
    }
}

struct Handler;

impl contracts::Service for Handler {
    async fn call(&self, a: contracts::Private) -> contracts::Private {
        contracts::Private(a.0 + 1)
    }
}

pub(crate) fn main() {
    let _ = contracts::ServiceServer::new(Handler);
    let _ = |node: &commlib::Node| {
        contracts::publish(node);
        let _ = contracts::ServiceClient::new(node).call(contracts::Private(1));
    };
}
