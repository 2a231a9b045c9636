//! Arguments may have any name, also those that generated code uses itself.

use commlib::{MessageContext, RequestContext};

#[commlib::rpc_service]
trait Names {
    #[allow(clippy::too_many_arguments, reason = "each is a name to try")]
    async fn rpc(
        &self,
        ctx: u8,
        self_: u8,
        params: u8,
        request: u8,
        body: u8,
        method: u8,
        reply: u8,
        real_context: &RequestContext,
        service: u8,
        inner: u8,
        contract: u8,
        client: u8,
        failure: u8,
    ) -> u8;
    #[rpc(body)]
    async fn whole(&self, body: u8) -> u8;
}

#[commlib::topic]
trait Topics {
    #[topic("{levels}.{topic}.{ctx}")]
    async fn topic(&self, body: u8, levels: u8, topic: u8, ctx: u8, real_context: &MessageContext);
    async fn value(&self, value: u8);
}

pub(crate) fn main() {}
