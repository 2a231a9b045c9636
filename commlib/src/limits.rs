//! The limits of a node, all in one place: how large, how deep, how many and how long.

use std::time::Duration;

use tokio::time::Instant;

/// No setting makes a body larger than this: 16 MiB, what RabbitMQ takes unless it is told otherwise.
pub(crate) const HARD_BODY: usize = 16 * 1024 * 1024;
/// No setting lets bodies nest deeper: the parsers count to 128, and what stands around a body takes some of it.
pub(crate) const HARD_DEPTH: usize = 100;
/// No setting allows more headers: looking one up goes through all of them.
pub(crate) const HARD_HEADERS: usize = 256;
/// No setting allows more bytes of headers: with all else that is said of a message they fit one frame of AMQP.
pub(crate) const HARD_HEADER_BYTES: usize = 32 * 1024;
/// The longest name of a header that is sent, in bytes.
pub(crate) const HEADER_NAME: usize = 128;
/// The longest value of a header that is sent, in bytes.
pub(crate) const HEADER_VALUE: usize = 8 * 1024;
/// The longest id of a message that is taken, in bytes: it is repeated in replies and logs, and AMQP has no longer ones.
pub(crate) const ID: usize = 255;
/// How many requests wait in one work queue at the broker. All who use a queue have to agree on it, so it is no setting.
#[cfg(any(feature = "memory", feature = "redis", feature = "amqp"))]
pub(crate) const QUEUE_LENGTH: u16 = 10_000;

/// No setting lets a durable group have more messages, or more dead letters.
pub(crate) const HARD_BACKLOG: u32 = 1_000_000;
/// A member of a group is never missed sooner: it may be a second until it can give its next sign of life.
const LEAST_CLAIM: Duration = Duration::from_secs(2);
/// Nor later.
const LATEST_CLAIM: Duration = Duration::from_secs(3600);

/// No time is longer: ten years. Points in time that are much further away can't be told.
pub(crate) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// When a time that begins now is over. A time without an end is over in ten years.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(FOREVER)
}

/// How large, how deep and how many: the limits of a node.
///
/// They are all on, with the defaults below; [`NodeBuilder::limits`](crate::NodeBuilder::limits) sets others. What is
/// over a limit is never sent, or refused before it is decoded, with an error that names the limit: in a call
/// `resource_exhausted`, or `invalid_argument` for the depth, and always *did not run* for a request. Topic messages over
/// a limit are dropped and counted as lagged, or given to the reader as an error; those of a durable topic become dead
/// letters.
///
/// | limit | default | at most |
/// |---|---|---|
/// | [`body_in`](Self::body_in): a body that is taken, encoded | 1 MiB | 16 MiB |
/// | [`body_out`](Self::body_out): a body that is sent, encoded | 1 MiB | 16 MiB |
/// | [`depth`](Self::depth): arrays, objects and maps within each other, in a body that is taken | 64 | 100 |
/// | [`inflated`](Self::inflated): what a [compressed](crate::Compression) body holds | 8 MiB | 64 MiB |
/// | [`inflation_ratio`](Self::inflation_ratio): how many times its size that is, where it is over 1 MiB | 100 | 100,000 |
/// | [`headers`](Self::headers): headers of a message, both ways | 64 | 256 |
/// | [`header_bytes`](Self::header_bytes): their names and values together, both ways | 16 KiB | 32 KiB |
/// | [`calls_in_flight`](Self::calls_in_flight): calls of the node's clients that wait for their reply | 10,000 | 1,000,000 |
/// | [`refusals`](Self::refusals): calls to one address that may be refused in a second for want of room, before more of them are not sent | 200 | 1,000,000 |
/// | [`concurrency`](Self::concurrency): requests that a server runs at once, unless [it says otherwise](crate::rpc::ServeRpc::concurrency) | 64 | 65,535 |
/// | [`topic_buffer`](Self::topic_buffer): messages that wait for a slow reader, unless [it says otherwise](crate::topic::Subscribe::buffer) | 4,096 | 1,000,000 |
/// | [`backlog`](Self::backlog): messages of a durable topic for a group that is behind or away | 100,000, in process 10,000 | 1,000,000, in process 10,000 |
/// | [`dead_letters`](Self::dead_letters): dead letters of a group or of a durable service | 10,000 | 1,000,000, in process 10,000 |
/// | [`claim_after`](Self::claim_after): until a member of a group that gives no sign of life is missed, on Redis | 10 s | 1 h |
///
/// Fixed, since all who use a queue have to agree on it: 10,000 requests wait in a work queue, and 100,000 (in process 10,000)
/// for a durable method. Addresses have at most [200 bytes](crate::address::MAX_LEN), names of headers 128 and values 8 KiB
/// where they are sent.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commlib::{Limits, Node};
/// let limits = Limits::default().body(4 * 1024 * 1024).headers(16);
/// let node = Node::builder().limits(limits).connect("memory://limits").await?;
/// # node.shutdown(std::time::Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest body that is taken, in bytes, encoded. Default 1 MiB, at most 16 MiB.
    pub body_in: usize,
    /// The largest body that is sent, in bytes, encoded. Default 1 MiB, at most 16 MiB.
    pub body_out: usize,
    /// How deep arrays, objects and maps may be nested in a body that is taken. Default 64, at most 100.
    pub depth: usize,
    /// The largest body that a compressed one unpacks to, in bytes. Default 8 MiB, at most 64 MiB.
    pub inflated: usize,
    /// How many times its size a compressed body may unpack to, where that is over 1 MiB. Default 100.
    pub inflation_ratio: usize,
    /// How many headers a message may have that is sent or taken. Default 64, at most 256.
    pub headers: usize,
    /// How many bytes the names and values of all headers of a message may have. Default 16 KiB, at most 32 KiB.
    pub header_bytes: usize,
    /// How many calls may wait for their reply at once. Default 10,000.
    pub calls_in_flight: usize,
    /// How many calls to one address may be refused in a second for want of room, by the broker (the queue is full) or by
    /// servers with a [longest wait](crate::rpc::ServeRpc::max_wait), before this node refuses more of them by itself.
    /// Default 200.
    ///
    /// A call that is refused costs the broker as much as one that is served. After a refusal a node sends as many
    /// calls to that address as are answered and so many more, which begin anew at 200 with each refusal and double with each
    /// second without one; after 10 s it sends all. The others fail at once with `resource_exhausted`, *did not run*.
    pub refusals: u32,
    /// How many requests a server runs at once. Default 64.
    pub concurrency: u32,
    /// How many messages of a subscription wait for a slow reader before the oldest are dropped. Default 4,096: what a
    /// fast publisher sends in some 20 ms.
    pub topic_buffer: usize,
    /// How many messages of a durable topic are kept for a group that is behind or away. Default 100,000; in process never
    /// more than 10,000.
    ///
    /// On RabbitMQ and in process a group that has as many gets no more: publishing to it is refused with
    /// `resource_exhausted`. The first member of a group settles it; on RabbitMQ all members have to agree on it with those
    /// who made the group, or else joining fails: [remove the group](crate::topic::Subscribe::remove_group) to change it.
    /// RabbitMQ does not count those that members have in hand.
    ///
    /// On Redis the groups of a topic share its stream, and the publishers of the topic should agree on the number: whoever
    /// publishes removes the oldest entries, read or not, and a group that had not got them is
    /// [told](crate::topic::RecvError::Gap). The broker removes only whole blocks, so it keeps this many for certain, and at
    /// most 100 more with its default settings.
    pub backlog: u32,
    /// How many dead letters of a group, or of a durable service, are kept; then the oldest go. Default 10,000; in process
    /// never more than that.
    ///
    /// Redis removes only whole blocks, so it keeps this many for certain, and at most 100 more with its default settings.
    /// RabbitMQ does not count those that are being listed; there the first dead letter of a group settles the number, and a
    /// node with another setting logs a warning with each.
    pub dead_letters: u32,
    /// Redis: how long a member of a durable group, or a server of a durable method, may give no sign of life until another
    /// one takes over what it had in hand. Default 10 s, at least 2 s, at most an hour.
    ///
    /// Members give a sign of life three times as often. All members of a group should agree on it. What a member has that is
    /// frozen for longer, or cut off from the broker, is handled twice. The other brokers learn of the end of a member
    /// themselves.
    pub claim_after: Duration,
}

impl Limits {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            body_in: 1024 * 1024,
            body_out: 1024 * 1024,
            depth: 64,
            inflated: 8 * 1024 * 1024,
            inflation_ratio: 100,
            headers: 64,
            header_bytes: 16 * 1024,
            calls_in_flight: 10_000,
            refusals: 200,
            concurrency: 64,
            topic_buffer: 4096,
            backlog: 100_000,
            dead_letters: 10_000,
            claim_after: Duration::from_secs(10),
        }
    }

    /// Sets [`body_in`](Self::body_in) and [`body_out`](Self::body_out).
    #[must_use]
    pub const fn body(mut self, bytes: usize) -> Self {
        self.body_in = bytes;
        self.body_out = bytes;
        self
    }

    /// Sets [`body_in`](Self#structfield.body_in).
    #[must_use]
    pub const fn body_in(mut self, bytes: usize) -> Self {
        self.body_in = bytes;
        self
    }

    /// Sets [`body_out`](Self#structfield.body_out).
    #[must_use]
    pub const fn body_out(mut self, bytes: usize) -> Self {
        self.body_out = bytes;
        self
    }

    /// Sets [`depth`](Self#structfield.depth).
    #[must_use]
    pub const fn depth(mut self, levels: usize) -> Self {
        self.depth = levels;
        self
    }

    /// Sets [`inflated`](Self#structfield.inflated).
    #[must_use]
    pub const fn inflated(mut self, bytes: usize) -> Self {
        self.inflated = bytes;
        self
    }

    /// Sets [`inflation_ratio`](Self#structfield.inflation_ratio).
    #[must_use]
    pub const fn inflation_ratio(mut self, times: usize) -> Self {
        self.inflation_ratio = times;
        self
    }

    /// Sets [`headers`](Self#structfield.headers).
    #[must_use]
    pub const fn headers(mut self, count: usize) -> Self {
        self.headers = count;
        self
    }

    /// Sets [`header_bytes`](Self#structfield.header_bytes).
    #[must_use]
    pub const fn header_bytes(mut self, bytes: usize) -> Self {
        self.header_bytes = bytes;
        self
    }

    /// Sets [`calls_in_flight`](Self#structfield.calls_in_flight).
    #[must_use]
    pub const fn calls_in_flight(mut self, calls: usize) -> Self {
        self.calls_in_flight = calls;
        self
    }

    /// Sets [`refusals`](Self#structfield.refusals).
    #[must_use]
    pub const fn refusals(mut self, per_second: u32) -> Self {
        self.refusals = per_second;
        self
    }

    /// Sets [`concurrency`](Self#structfield.concurrency).
    #[must_use]
    pub const fn concurrency(mut self, requests: u32) -> Self {
        self.concurrency = requests;
        self
    }

    /// Sets [`topic_buffer`](Self#structfield.topic_buffer).
    #[must_use]
    pub const fn topic_buffer(mut self, messages: usize) -> Self {
        self.topic_buffer = messages;
        self
    }

    /// Sets [`backlog`](Self#structfield.backlog).
    #[must_use]
    pub const fn backlog(mut self, messages: u32) -> Self {
        self.backlog = messages;
        self
    }

    /// Sets [`dead_letters`](Self#structfield.dead_letters).
    #[must_use]
    pub const fn dead_letters(mut self, messages: u32) -> Self {
        self.dead_letters = messages;
        self
    }

    /// Sets [`claim_after`](Self#structfield.claim_after).
    #[must_use]
    pub const fn claim_after(mut self, time: Duration) -> Self {
        self.claim_after = time;
        self
    }

    /// Whether every limit is one that can be kept.
    ///
    /// # Errors
    /// Which is not, and what it may be.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value, most) in [
            ("body_in", self.body_in, HARD_BODY),
            ("body_out", self.body_out, HARD_BODY),
            ("depth", self.depth, HARD_DEPTH),
            ("inflated", self.inflated, 64 * 1024 * 1024),
            ("inflation_ratio", self.inflation_ratio, 100_000),
            ("headers", self.headers, HARD_HEADERS),
            ("header_bytes", self.header_bytes, HARD_HEADER_BYTES),
            ("calls_in_flight", self.calls_in_flight, 1_000_000),
            ("refusals", self.refusals as usize, 1_000_000),
            ("concurrency", self.concurrency as usize, usize::from(u16::MAX)),
            ("topic_buffer", self.topic_buffer, 1_000_000),
            ("backlog", self.backlog as usize, HARD_BACKLOG as usize),
            ("dead_letters", self.dead_letters as usize, HARD_BACKLOG as usize),
        ] {
            let least = usize::from(!name.starts_with("header"));
            if !(least..=most).contains(&value) {
                return Err(format!(
                    "the limit `{name}` is {value}; it is from {least} to {most}"
                ));
            }
        }
        if !(LEAST_CLAIM..=LATEST_CLAIM).contains(&self.claim_after) {
            return Err(format!(
                "the limit `claim_after` is {:?}; it is from {LEAST_CLAIM:?} to {LATEST_CLAIM:?}",
                self.claim_after
            ));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// What is said of something that was received and is larger than [`Limits::body_in`].
pub(crate) fn too_large(what: &str, size: usize, limit: usize) -> String {
    format!(
        "{what} has {size} bytes, over the limit of {limit}; its receiver can raise it with `Limits::body_in`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_range() {
        let fine = [
            Limits::default(),
            Limits::new().body(1),
            Limits::new().body(HARD_BODY),
            Limits::new().depth(HARD_DEPTH),
            Limits::new().headers(0).header_bytes(0),
            Limits::new().headers(HARD_HEADERS),
            Limits::new().header_bytes(HARD_HEADER_BYTES),
            Limits::new().concurrency(u32::from(u16::MAX)),
            Limits::new().backlog(1).dead_letters(1).claim_after(LEAST_CLAIM),
            Limits::new()
                .backlog(HARD_BACKLOG)
                .dead_letters(HARD_BACKLOG)
                .claim_after(LATEST_CLAIM),
        ];
        for limits in fine {
            assert_eq!(limits.check(), Ok(()), "{limits:?}");
        }
        for (limits, name) in [
            (Limits::new().body_in(0), "body_in"),
            (Limits::new().body_in(HARD_BODY + 1), "body_in"),
            (Limits::new().body_out(HARD_BODY + 1), "body_out"),
            (Limits::new().depth(0), "depth"),
            (Limits::new().depth(HARD_DEPTH + 1), "depth"),
            (Limits::new().headers(HARD_HEADERS + 1), "headers"),
            (Limits::new().header_bytes(HARD_HEADER_BYTES + 1), "header_bytes"),
            (Limits::new().calls_in_flight(0), "calls_in_flight"),
            (Limits::new().refusals(0), "refusals"),
            (Limits::new().refusals(1_000_001), "refusals"),
            (Limits::new().concurrency(0), "concurrency"),
            (Limits::new().concurrency(65_536), "concurrency"),
            (Limits::new().topic_buffer(0), "topic_buffer"),
            (Limits::new().backlog(0), "backlog"),
            (Limits::new().backlog(HARD_BACKLOG + 1), "backlog"),
            (Limits::new().dead_letters(0), "dead_letters"),
            (Limits::new().dead_letters(HARD_BACKLOG + 1), "dead_letters"),
            (
                Limits::new().claim_after(LEAST_CLAIM - Duration::from_nanos(1)),
                "claim_after",
            ),
            (
                Limits::new().claim_after(LATEST_CLAIM + Duration::from_nanos(1)),
                "claim_after",
            ),
        ] {
            let error = limits.check().unwrap_err();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }
}
