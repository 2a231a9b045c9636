//! The transport contract: what a backend does, and nothing that can be done once above it.
//!
//! A transport moves opaque messages. Request/reply matching, deadlines, cancellation, retries, dispatch and
//! subscriber buffers live in the layers above. The contract has these clauses, each with a test of its number in
//! the conformance suite:
//!
//! 1. **Work queue.** Of all consumers of an address, in all processes, exactly one gets a message.
//! 2. **Topic.** Every subscription whose pattern matches gets a message once, however many of its patterns, or of
//!    its neighbours on the same connection, match too.
//! 3. **Group.** Of the subscriptions of one group name, exactly one gets a message.
//! 4. **Inbox.** A reply reaches the node that sent the request, with the request's id.
//! 5. **Accepted.** A resolved send or publish means that the broker has it; [`Accepted`] says what else it means.
//! 6. **Permit first.** A message of a work queue or a group is delivered only while a permit of the consumer's
//!    semaphore is held for it; the permit is released when the reply is at the broker. While handlers are quick, a
//!    transport may fetch as many messages again from each work queue. They wait in this process, and go to another
//!    consumer, as redelivered, if it dies.
//! 7. **One reply.** A responder is used once. `give_back` hands a request that was not started to another consumer.
//!    One that is dropped unused, as when a process ends, may have been started: it goes to another consumer only
//!    where that one is told so ([`Delivery::redelivered`]), and is lost otherwise.
//! 8. **Reply addresses.** A reply is written only to an address of the forms that requesters own. Any other is
//!    dropped, counted and logged.
//! 9. **No responders.** Where [`Capabilities::no_responders`] is set, a request to an address that no consumer
//!    serves fails with [`TransportErrorKind::NoResponders`] without waiting.
//! 10. **Ended.** Dropping a consumer or subscription ends it; nothing is delivered after `stop` resolved.
//! 11. **Connection lost.** Requests in flight end at once through [`ReplySink`]; what is being sent ends with an
//!     error that says whether it may have arrived.
//! 12. **Restored.** The connection, consumers and subscriptions come back without a limit of tries, with jittered
//!     backoff; subscriptions are told of the gap.
//! 13. **Bounded.** No method waits without a limit, and no peer makes a buffer grow without one.
//! 14. **Malformed.** A message that can't be read is handed up as such, with the reply address if there is one. It
//!     never stops a consumer.
//! 15. **Expired.** A message is not kept for longer than its time to live plus 60 s, and nothing temporary survives
//!     its owner by more than 60 s; groups of durable topics and their messages, which are there to be kept, do.
//! 16. **Durable.** A group of a durable topic gets every accepted message since its first member joined, also after
//!     having been away, at least once: until one of its members settled it ([`Settle`]). So do the servers of a durable
//!     method, from the first accepted request on.
//! 17. **Once.** Of the requests to a durable method that bear the same idempotency key, one at a time is
//!     [granted](Claimed::Granted) the work; when it is done, the others get its answer.

#[cfg(feature = "amqp")]
pub(crate) mod amqp;
#[cfg(any(feature = "redis", feature = "amqp"))]
pub(crate) mod backoff;
#[cfg(any(feature = "memory", feature = "amqp"))]
mod claims;
mod connect;
pub(crate) mod durable;
mod error;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod tls;
#[cfg(test)]
mod told;
pub(crate) mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::address::{Address, Pattern};
use crate::envelope::{Envelope, Malformed};

pub use connect::ReplyRoute;
pub(crate) use connect::{TransportOptions, connect};
pub use durable::{
    Claim, Claimed, DeadLetter, Disposal, Durability, DurableSpec, PublishOptions, Removal, Settle, Tracked,
};
pub use error::{TransportError, TransportErrorKind};
pub use tls::Tls;
pub use url::BrokerUrl;

/// A backend. See the [module](self) for the numbered clauses.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// `memory`, `redis` or `amqp`, for messages and spans.
    fn name(&self) -> &'static str;

    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;

    /// The state of the connection, now and as it changes.
    fn state(&self) -> watch::Receiver<ConnectionState>;

    /// Opens the inbox that replies come to. Called once, before the first request.
    ///
    /// Dropping the future leaves no half-open inbox behind.
    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Queues a request and returns at once. `Ok` promises exactly one later call of [`ReplySink::reply`],
    /// [`ReplySink::failed`] or [`ReplySink::lost`], unless [`forget`](Self::forget) comes first or the request is
    /// never answered. How many requests are in flight is limited above.
    ///
    /// # Errors
    /// What is known at once, always with [`DidNotRun`](crate::Execution::DidNotRun); `Disconnected` makes the caller wait for
    /// a connection.
    fn request(&self, request: Request) -> Result<(), TransportError>;

    /// The caller of a request is gone: whatever the transport keeps for it can go. Returns whether the request
    /// certainly never left this process.
    fn forget(&self, id: &str) -> bool;

    /// Sends to a work queue without asking for a reply. Resolves when the broker has it.
    ///
    /// Dropping the future does not unsend.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>>;

    /// Publishes to a topic. Resolves when the broker has it.
    ///
    /// Dropping the future does not unsend.
    fn publish(
        &self,
        address: Address,
        message: Envelope,
        options: PublishOptions,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>>;

    /// Publishes at once, where nothing has to be waited for before that: a connection, a reader.
    fn publish_now(&self, address: &Address, message: Envelope, options: &PublishOptions) -> Published {
        let _ = (address, options);
        Published::Waits(message)
    }

    /// Takes from work queues until the handle is stopped or dropped. Resolves when requests are being taken.
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>>;

    /// Listens to a topic pattern until the handle is stopped or dropped. Resolves when the broker has confirmed.
    fn subscribe(&self, spec: SubscribeSpec) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>>;

    /// The oldest dead letters of a group, at most `limit` of them.
    fn dead_letters(
        &self,
        group: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeadLetter>, TransportError>>;

    /// Does away with one dead letter of a group. `false` if there is none of this id.
    fn dispose(
        &self,
        group: &str,
        id: &str,
        disposal: Disposal,
    ) -> BoxFuture<'_, Result<bool, TransportError>>;

    /// Removes a group of a durable topic with what is kept for it, unless it has members. Its dead letters stay.
    fn remove_group(
        &self,
        topic: &Pattern,
        group: &str,
        pattern: &Pattern,
    ) -> BoxFuture<'_, Result<Removal, TransportError>>;

    /// Takes on the work of an idempotency key, or says what is known of it. The owner may do so again, also after it
    /// was given to another server; each time the key is remembered for the window from then on.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, TransportError>>;

    /// Ends a claim of this owner: with an answer, which is kept for the window, or given up, so that another request
    /// can have it.
    fn conclude(&self, claim: Claim, answer: Option<Envelope>) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Flushes what is queued, removes what is temporary and closes, within the limit.
    ///
    /// # Errors
    /// When something could not be flushed in time.
    fn close(&self, limit: Duration) -> BoxFuture<'_, Result<(), TransportError>>;
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// A request that nobody serves fails at once.
    pub no_responders: bool,
    /// Subscriptions can share the messages as a group.
    pub groups: bool,
    /// A request that was taken but not started can be given to another consumer.
    pub give_back: bool,
    /// The broker drops expired requests by itself.
    pub expires: bool,
    /// The connection can be away, so that what did not leave is sent again.
    pub reconnects: bool,
}

/// The state of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not connected, trying.
    Connecting {
        /// Tries since the connection was last up.
        attempt: u32,
        /// Why the last one failed; empty before the first.
        reason: String,
    },
    /// Connected.
    Connected {
        /// Counts the connections of this transport, from 1.
        generation: u64,
    },
    /// The broker takes no publishes now (memory or disk alarm); everything else works.
    Blocked {
        /// What the broker said.
        reason: String,
    },
    /// Closed by this side for good.
    Closed,
}

impl ConnectionState {
    /// Whether messages can be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// A message to a work queue.
#[derive(Debug, Clone)]
pub struct Request {
    /// The work queue.
    pub address: Address,
    /// The message; [`Meta::id`](crate::envelope::Meta::id) is set and unique.
    pub message: Envelope,
    /// How long it is worth delivering.
    pub time_to_live: Duration,
    /// Kept by the broker until a [member](DurableSpec::requests) settled it, whether or not there is one now, and
    /// without regard to its time to live. It does not go to the work queue, and never fails with
    /// [`TransportErrorKind::NoResponders`].
    pub durable: bool,
}

/// What the broker promised for an accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Accepted {
    /// Where it is kept for groups that are away.
    pub durability: Durability,
    /// How many receivers there were, where the broker says so.
    pub receivers: Option<u64>,
    /// The broker did not say that it has the message, as the publisher [asked for](PublishOptions::unconfirmed): it was
    /// handed to the connection, and is lost if that breaks now.
    pub unconfirmed: bool,
}

/// What came of [`Transport::publish_now`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Published {
    /// What [`Transport::publish`] would have returned.
    Done(Result<Accepted, TransportError>),
    /// It was sent, and the broker's word is awaited, which is what [`Transport::publish`] would have returned. The message
    /// comes back for the case that it never left.
    Sent(oneshot::Receiver<Result<Accepted, TransportError>>, Envelope),
    /// There is something to wait for: `publish` is needed.
    Waits(Envelope),
}

/// Takes replies. Calls never block.
pub trait ReplySink: Send + Sync + 'static {
    /// A reply to the request with this id.
    fn reply(&self, id: &str, reply: Envelope);

    /// A reply that can't be read.
    fn malformed(&self, id: &str, error: Malformed);

    /// The request with this id failed on its way.
    fn failed(&self, id: &str, error: TransportError);

    /// Every request that is still in flight failed.
    fn lost(&self, error: TransportError);
}

/// What to take from work queues.
#[derive(Clone)]
pub struct ConsumeSpec {
    /// The name of the service, for logs and names at the broker.
    pub service: String,
    /// The work queues.
    pub addresses: Vec<Address>,
    /// Bounds what is taken and not yet answered (clause 6).
    pub permits: Arc<Semaphore>,
    /// How many permits there are in all.
    pub concurrency: u32,
    /// The broker may forget a request when it sends it. One with no room here is refused at once.
    pub auto_ack: bool,
    /// The sink refuses what was sent longer ago than this. Such requests may be handed up without a permit.
    pub max_wait: Option<Duration>,
    /// Messages with larger bodies are handed up as [`Taken::TooLarge`], in bytes.
    pub max_body: usize,
    /// Takes the messages.
    pub sink: Arc<dyn RequestSink>,
}

/// Takes requests. Calls never block.
pub trait RequestSink: Send + Sync + 'static {
    /// One request.
    fn deliver(&self, delivery: Delivery);
}

/// A request that was taken.
pub struct Delivery {
    /// Where it came from: an index into [`ConsumeSpec::addresses`].
    pub address: usize,
    /// What came.
    pub taken: Taken,
    /// Whether the broker delivered it before, so that its handler may have run.
    pub redelivered: bool,
    /// Whether a handler that is done at once may run right in [`RequestSink::deliver`]: its caller waits for the answer, or
    /// has a queue behind it whose next request would only wait for the same processor.
    pub waited_for: bool,
    /// Answers it, and holds its permit.
    pub responder: Box<dyn Responder>,
}

/// What came.
#[derive(Debug)]
#[non_exhaustive]
pub enum Taken {
    /// A message.
    Message(Envelope),
    /// Bytes that are no message.
    Malformed(Malformed),
    /// A message with a body over the limit, which was not read.
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
}

/// Ends the handling of one request; used once. Calls never block.
pub trait Responder: Send {
    /// Whether the sender waits for an answer at an address that may be answered.
    fn wants_reply(&self) -> bool;

    /// Queues the one reply, acknowledges, and releases the permit when the broker has it. The transport sets
    /// reply address and correlation id.
    fn reply(self: Box<Self>, reply: Envelope);

    /// Acknowledges without a reply.
    fn finish(self: Box<Self>);

    /// Gives up a request that was kept for its method: it becomes a dead letter. Any other is acknowledged.
    fn give_up(self: Box<Self>, reason: String) {
        drop(reason);
        self.finish();
    }

    /// Gives a request that was not started to another consumer, where the broker can.
    fn give_back(self: Box<Self>, message: Envelope);
}

/// Takes from work queues. Dropping it stops without waiting.
pub trait Consumer: Send + Sync {
    /// Stops taking; nothing is delivered once this has resolved. Replies still go out.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// What to listen to.
#[derive(Clone)]
pub struct SubscribeSpec {
    /// The pattern.
    pub pattern: Pattern,
    /// Share the messages with the other subscriptions of this group.
    pub group: Option<Group>,
    /// The broker keeps the group and its messages (clause 16). Only with a group.
    pub durable: Option<DurableSpec>,
    /// Messages with larger bodies are dropped and reported as lagged, in bytes.
    pub max_body: usize,
    /// Takes the messages.
    pub sink: Arc<dyn TopicSink>,
}

/// Membership of a group.
#[derive(Clone)]
pub struct Group {
    /// The name, one level of an address.
    pub name: String,
    /// Bounds what is taken and not yet handled (clause 6).
    pub permits: Arc<Semaphore>,
    /// How many permits there are in all.
    pub concurrency: u32,
}

/// Takes topic messages. Calls never block.
pub trait TopicSink: Send + Sync + 'static {
    /// One message.
    fn message(&self, message: TopicMessage);

    /// Whether so many messages wait here that one who can do so should let the reader [catch up](Self::catch_up) before
    /// the next.
    fn is_behind(&self) -> bool {
        false
    }

    /// Resolves when the reader has caught up, or at the latest after 50 ms; then at once until it has.
    fn catch_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Messages were or may have been missed: the connection was away, or the broker removed them.
    fn gap(&self);

    /// A message was dropped because it was malformed or too large.
    fn dropped(&self, reason: &str);
}

/// A message of a topic.
pub struct TopicMessage {
    /// The address that it was published to. From foreign publishers it may be outside the grammar.
    pub address: String,
    /// The message.
    pub message: Envelope,
    /// The permit of a group's message, released when it is handled.
    pub permit: Option<OwnedSemaphorePermit>,
    /// What a message of a durable topic has.
    pub tracked: Option<Tracked>,
}

/// Listens to a pattern. Dropping it ends it without waiting.
pub trait Subscription: Send + Sync {
    /// Ends it; nothing is delivered once this has resolved.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
