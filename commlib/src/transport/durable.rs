//! What durable topics add to the transport contract.
//!
//! A durable topic has *groups* that are kept by the broker: each gets every message that was accepted since its first
//! member joined, also while no member is there. A member takes messages as long as it has permits, and *settles* each:
//! handled, to be delivered again later, or dead. One that dies unsettled, or is dropped, goes to another member. How
//! often a message is tried and how long it rests is decided above; a transport only counts the deliveries.

use std::fmt;
use std::time::Duration;
#[cfg(any(feature = "memory", feature = "amqp"))]
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
#[cfg(any(feature = "redis", feature = "amqp"))]
use futures_util::future::BoxFuture;

use crate::address::{Address, Pattern};
use crate::envelope::{Envelope, Headers, Hidden};
use crate::error::{Status, StatusCode};
use crate::transport::{TransportError, TransportErrorKind};

/// Whether this build has it. Where it has not, programs have none of its code: what is asked for this has to be an
/// ordinary function, as what an `async fn` awaits is kept whatever comes before.
pub(crate) const BUILT: bool = cfg!(feature = "durable");

/// What this build has not.
pub(crate) fn not_built() -> TransportError {
    TransportError::did_not_run(
        TransportErrorKind::Unsupported,
        "this build has no durable topics and methods; enable the feature `durable` of the crate commlib",
    )
}

/// The same as a future.
#[cfg(any(feature = "redis", feature = "amqp"))]
pub(super) fn never_built<T: Send + 'static>() -> BoxFuture<'static, Result<T, TransportError>> {
    Box::pin(std::future::ready(Err(not_built())))
}

/// Where an accepted message is kept for groups that are away: what it survives. In rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Nowhere: it went to whoever listened. Also of a durable topic to which nobody listens yet, where the broker
    /// keeps messages per group (RabbitMQ).
    #[default]
    None,
    /// In this process, until that ends: the in-process bus.
    Process,
    /// In the memory of the broker, until that ends: Redis without an append-only file, where a snapshot may save it;
    /// RabbitMQ, of a message that was published as [transient](crate::topic::Publish::transient).
    BrokerMemory,
    /// In a file of the broker that may not be on the disk yet: it survives a crash of the broker, but the last second
    /// may not survive a crash of its machine. Redis with an append-only file.
    BrokerFile,
    /// On the disk of the broker: RabbitMQ's durable queues, Redis with `appendfsync always`.
    BrokerDisk,
}

impl Durability {
    /// Whether the message survives that the broker ends and is started again.
    #[must_use]
    pub fn survives_restart(self) -> bool {
        self >= Self::BrokerFile
    }
}

/// How a message is published.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// The durable topic that the address belongs to, with `*` for every level that varies: kept for its groups.
    pub durable: Option<Pattern>,
    /// Resolve when the message is handed to the connection, where the broker would confirm it else. One of a durable
    /// topic is confirmed nevertheless, unless it is transient.
    pub unconfirmed: bool,
    /// A message of a durable topic need not survive the end of the broker.
    pub transient: bool,
}

impl PublishOptions {
    /// Whether the broker has to say that it keeps the message for the groups of a durable topic.
    #[cfg(feature = "amqp")]
    pub(crate) fn is_kept_for_certain(&self) -> bool {
        self.durable.is_some() && !(self.transient && self.unconfirmed)
    }

    /// A message of a durable topic.
    #[must_use]
    pub fn durable(topic: Pattern) -> Self {
        Self {
            durable: Some(topic),
            ..Self::default()
        }
    }
}

/// Membership of a group that the broker keeps.
#[derive(Debug, Clone)]
pub struct DurableSpec {
    /// The durable topic, with `*` for every level that varies. The pattern of the subscription is a part of it. Of a
    /// durable method, its address.
    pub topic: Pattern,
    /// Where dead letters of the group go: the group's name below the namespace of the node.
    pub dead_letters: String,
    /// The messages are the [durable requests](super::Request::durable) to a method, of which its servers are the only
    /// group: it gets all of them, also those from before its first member.
    pub requests: bool,
}

/// What a message of a durable topic has beside the message.
pub struct Tracked {
    /// How often it was delivered to a member of the group, this time included: from 1.
    pub attempt: u32,
    /// Whether it is a request whose sender waits for an answer at an address that may be answered.
    pub wants_answer: bool,
    /// Ends its handling.
    pub settle: Box<dyn Settle>,
}

/// Ends the handling of one message of a durable topic; used once. Calls never block.
///
/// Dropping it gives the message back: it is delivered again, to any member of the group.
pub trait Settle: Send + Sync {
    /// The answer to a request: it goes out when the request is settled as handled or dead. The transport sets reply
    /// address and correlation id. What has nobody to answer has no answer.
    fn answer(&mut self, answer: Envelope) {
        drop(answer);
    }

    /// It was handled: the group does not get it again.
    fn handled(self: Box<Self>);

    /// It is to be delivered again when this time has passed, or somewhat later.
    fn again(self: Box<Self>, after: Duration);

    /// It is given up and becomes a dead letter.
    fn dead(self: Box<Self>, reason: String);
}

/// A message that a group gave up. `Debug` shows neither the body nor the values of the headers.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names it at the broker.
    pub id: String,
    /// The address that it was published to.
    pub topic: String,
    /// Why it was given up.
    pub reason: String,
    /// How often it was delivered.
    pub attempts: u32,
    /// The body as it came, unpacked if it was compressed.
    pub body: Bytes,
    /// The content type of the body; JSON, where it could be read, if nothing is said.
    pub content_type: Option<String>,
    /// How the body is compressed, if it could not be unpacked; [`DeadLetters::list`](crate::topic::DeadLetters::list)
    /// does that.
    pub content_encoding: Option<String>,
    /// The headers of the message. Untrusted text.
    pub headers: Headers,
    /// When it was published by the publisher's clock, in µs since 1970 UTC, if it said so.
    pub timestamp: Option<u64>,
    /// When it was given up, in µs since 1970 UTC.
    pub died: Option<u64>,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .field("body", &Hidden(self.body.len()))
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// What is done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposal {
    /// Its group gets it again, as for the first time.
    Resend,
    /// It is deleted.
    Discard,
}

/// What came of removing a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// It is gone.
    Removed,
    /// There is no such group.
    NotThere,
    /// It has members, so it is there as before.
    InUse,
}

/// The answer to a request that can't be handled.
pub(super) fn refusal(code: StatusCode, reason: &str) -> Envelope {
    let mut answer = Envelope::default();
    answer.meta.error = Some(Box::new((&Status::new(code, reason)).into()));
    answer
}

/// The work of a durable request by its idempotency key, to be done once.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The method, as it is at the broker.
    pub address: Address,
    /// The key.
    pub key: String,
    /// Tells bodies apart: two of one number are taken for the same.
    pub body: u128,
    /// The request that does the work: its id. Of several with the same key only one may.
    pub owner: String,
    /// How long the key is remembered from now on.
    pub window: Duration,
}

/// What is known of the work of an idempotency key.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Claimed {
    /// It is for the owner to do.
    Granted,
    /// Another request with this key is about it.
    Taken,
    /// It was done, with this answer.
    Answered(Box<Envelope>),
    /// The key is that of another request, which had another body.
    OtherBody,
}

/// The wall clock in µs since 1970 UTC, for when a message was given up.
#[cfg(any(feature = "memory", feature = "amqp"))]
pub(super) fn now_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
