//! A deprecated method warns those who call it, not those who declare or serve it.
#![deny(warnings)]

#[commlib::rpc_service]
trait Service {
    #[deprecated(note = "use `sum`")]
    async fn add(&self, a: u8) -> u8;
    async fn sum(&self, a: u8) -> u8;
}

#[commlib::topic]
trait Topics {
    #[deprecated]
    async fn told(&self, a: u8);
}

#[deprecated]
#[commlib::rpc_service]
trait Old {
    async fn add(&self, a: u8) -> u8;
}

struct Handler;

impl Service for Handler {
    async fn add(&self, a: u8) -> u8 {
        a
    }
    async fn sum(&self, a: u8) -> u8 {
        a
    }
}

pub(crate) fn main() {
    let _ = ServiceServer::new(Handler);
    let _ = |node: &commlib::Node| {
        let client = ServiceClient::new(node);
        let _ = client.sum(1);
        #[expect(deprecated, reason = "the client's method carries the mark")]
        let _ = client.add(1);
    };
}
