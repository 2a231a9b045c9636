//! From an item of a work queue to a delivery: what it says, and who may be answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Life;
use super::outbox::Outbox;
use super::resp::Value;
use super::responder::{RedisResponder, Route};
use super::salvage;
use crate::address::Address;
use crate::envelope::{Dialect, Malformed, native};
use crate::transport::Taken;

/// Requests of commlib-py carry no deadline and wait for ever. Its clients wait 10 s unless told otherwise.
const STALE: Duration = Duration::from_secs(60);

/// Where an item was popped.
pub(super) struct Delivered<'a> {
    pub(super) outbox: &'a Arc<Outbox>,
    /// The batch that it came in.
    pub(super) batch: u64,
    pub(super) life: Option<Life>,
    pub(super) address: &'a Address,
    pub(super) max_body: usize,
    /// Whether it may have waited since before there was a server. Only then its time stamp is believed: clocks of
    /// robots are often wrong, and a request that came while we served can't be stale.
    pub(super) waited: bool,
}

impl Delivered<'_> {
    /// What was taken and how to answer it; nothing if it is not worth handling any more.
    pub(super) fn read(self, item: Value, permit: OwnedSemaphorePermit) -> Option<(Taken, RedisResponder)> {
        let (taken, route, item) = match item {
            Value::Bulk(item) => match native::decode(&item) {
                Ok((message, Dialect::CommlibPy)) if self.waited && self.is_stale(message.meta.timestamp) => {
                    tracing::warn!(address = %self.address, "a request of commlib-py waited for over 60 s; it was dropped");
                    return None;
                }
                Ok((mut message, dialect)) => {
                    let correlation_id = match dialect {
                        Dialect::Native => message
                            .meta
                            .id
                            .as_ref()
                            .or(message.meta.correlation_id.as_ref())
                            .cloned(),
                        Dialect::CommlibPy => message.meta.correlation_id.clone(),
                    };
                    let reply_to = message.meta.reply_to.take();
                    let wants_reply = reply_to.is_some();
                    let route = Route::new(reply_to, Some(dialect), correlation_id, &self.outbox.handle);
                    let size = message.data.len();
                    let taken = if size > self.max_body {
                        Taken::TooLarge { size }
                    } else if wants_reply && route.is_none() {
                        Taken::Malformed(Malformed::forged())
                    } else {
                        self.outbox.handle.clock.read(&mut message.meta);
                        Taken::Message(message)
                    };
                    (taken, route, Some(item))
                }
                Err(mut malformed) => {
                    let route = self.route_of(&mut malformed);
                    (Taken::Malformed(malformed), route, Some(item))
                }
            },
            Value::Skipped(skipped) => {
                let route = self.route_of(&mut salvage::route(&skipped));
                (Taken::TooLarge { size: skipped.size }, route, None)
            }
            _ => return None,
        };
        let address = self.address.clone();
        let outbox = Arc::clone(self.outbox);
        let responder = RedisResponder::new(outbox, self.batch, self.life, address, item, route, permit);
        Some((taken, responder))
    }

    fn route_of(&self, malformed: &mut Malformed) -> Option<Route> {
        let correlation_id = malformed.correlation_id.take();
        Route::new(
            malformed.reply_to.take(),
            None,
            correlation_id,
            &self.outbox.handle,
        )
    }

    fn is_stale(&self, timestamp: Option<u64>) -> bool {
        timestamp.is_some_and(|sent| self.outbox.handle.clock.since(sent) > STALE)
    }
}
