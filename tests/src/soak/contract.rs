//! What the servers of a run serve.

/// Calls with a number each.
#[commlib::rpc_service(name = "soak")]
pub trait Work {
    /// Reports that it runs, waits for `hold_us` µs and returns the number and the value.
    async fn work(&self, id: u64, value: u64, hold_us: u64) -> (u64, u64);
}

/// Requests that are kept, with a number each.
#[commlib::rpc_service(name = "soak-kept")]
pub trait Kept {
    /// As [`Work::work`].
    #[rpc(durable)]
    async fn keep(&self, ctx: &commlib::RequestContext, id: u64, value: u64, hold_us: u64) -> (u64, u64);

    /// Reports that it runs.
    #[rpc(durable, oneway)]
    async fn note(&self, ctx: &commlib::RequestContext, id: u64);
}

/// Messages with a number each.
#[commlib::topic(prefix = "soak")]
pub trait Entries {
    /// Reports that it came.
    #[topic("entry", durable)]
    async fn entry(&self, ctx: &commlib::MessageContext, id: u64);
}

/// The group that takes the messages.
pub const GROUP: &str = "book-keepers";

/// What the server is to answer to a call: nothing that another call or a default would have.
#[must_use]
pub fn value_of(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12
}
