//! What a handler knows about the request that it serves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::durable_call::KEY;
use crate::address::Address;
use crate::codec::Codec;
use crate::envelope::Headers;
use crate::node::Node;
use crate::runtime::cancel::Cancel;

/// The request being served. Take it as an argument `ctx: &RequestContext` of a method; it never travels.
#[derive(Debug)]
pub struct RequestContext {
    pub(crate) node: Node,
    pub(crate) address: Address,
    pub(crate) headers: Headers,
    pub(crate) deadline: Instant,
    pub(crate) cancel: Arc<Cancel>,
    pub(crate) redelivered: bool,
    pub(crate) attempt: u32,
    pub(crate) codec: Codec,
}

impl RequestContext {
    /// The method's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The request's id, if the caller gave one. Untrusted text.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.cancel.id.as_deref()
    }

    /// A header of the request. Untrusted text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// All headers of the request. Untrusted text.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// When the caller stops waiting. Calls made by the handler inherit it. Of a durable method it is far in the future:
    /// its work goes on whether or not somebody waits.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long the caller still waits.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the caller gave up, by dropping its call or because the time ran out.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.cancel.is_canceled() || self.deadline <= Instant::now()
    }

    /// Resolves when [`is_canceled`](Self::is_canceled) becomes true. A handler is never aborted; it may stop here.
    ///
    /// Cancellation safe.
    pub async fn canceled(&self) {
        tokio::select! {
            () = self.cancel.canceled() => {}
            () = tokio::time::sleep_until(self.deadline) => {}
        }
    }

    /// Whether the broker delivered the request before, so that an earlier run may have begun.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// How often the request was delivered to a server, this time included: more than 1 when an earlier handler panicked,
    /// or ended with its process before it was done. Always 1 unless the method is durable.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The idempotency key of a request to a durable method. Untrusted text.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.headers.get(KEY)
    }

    /// How the caller encoded the request; the reply goes back in the same way.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The node that serves the request, to make further calls with.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }
}
