//! Durable topics: streams. Each durable topic has one, which all its addresses share and all its groups read.
//!
//! An entry has the address (`a`), the message (`m`), and, if it was a dead letter that was sent again, the only group
//! that it is for (`g`). Whoever listens without a group gets the message on the channel of its address as of any topic.
//! A group reads with [members](super::stream_member); what it gives up goes to its
//! [dead letters](super::stream_letters).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::Handle;
use super::jobs::Job;
use super::resp::{self, Value};
use super::stream_id::EntryId;
use super::{RedisTransport, fault};
use crate::address::{Address, Pattern};
use crate::envelope::Envelope;
use crate::error::Execution;
use crate::transport::{Accepted, Durability, TransportError, TransportErrorKind};

/// How long what is known about the broker's persistence is believed.
const BELIEVED: Duration = Duration::from_secs(30);

/// The streams of requests begin so.
pub(super) const REQUESTS: &str = "commlib:requests:";

/// The stream of a durable topic.
pub(super) fn key(topic: &Pattern) -> String {
    ["commlib:stream:", topic.as_str()].concat()
}

/// Adds a message to the stream of its durable topic.
pub(super) async fn append(
    transport: &RedisTransport,
    what: &str,
    topic: &Pattern,
    address: Address,
    mut message: Envelope,
) -> Result<Accepted, TransportError> {
    transport.handle.check(what)?;
    let durability = transport
        .persistence
        .get(&transport.handle, transport.options.operation_timeout)
        .await;
    let limit = transport.options.operation_timeout;
    let outcome = transport.handle.outcome(limit, what, |done| {
        queue(transport, topic, address, &mut message, durability, done);
    });
    outcome.await
}

/// Queues a message for the stream of its durable topic.
pub(super) fn queue(
    transport: &RedisTransport,
    topic: &Pattern,
    address: Address,
    message: &mut Envelope,
    durability: Durability,
    done: oneshot::Sender<Result<Accepted, TransportError>>,
) {
    transport.handle.queue(Job::Append(Append {
        stream: key(topic),
        address,
        item: transport.encode_native(message, None),
        backlog: transport.options.limits.backlog,
        durability,
        done,
    }));
}

/// A group in its stream.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) stream: String,
    /// The group as the broker knows it: one of the same name that listens to another part of the topic is another.
    pub(super) group: String,
    /// The entries are requests, which go when they are settled: there is no other group.
    pub(super) requests: bool,
    /// Both, to tell places apart.
    both: String,
}

impl Place {
    pub(super) fn new(topic: &Pattern, group: &str, pattern: &Pattern) -> Arc<Self> {
        let stream = key(topic);
        let group = format!("{group}:{pattern}");
        Arc::new(Self {
            both: format!("{stream} {group}"),
            stream,
            group,
            requests: false,
        })
    }

    /// Of the servers of a durable method.
    pub(super) fn of_servers(method: &str, group: &str) -> Arc<Self> {
        let stream = format!("{REQUESTS}{method}");
        Arc::new(Self {
            both: format!("{stream} {group}"),
            stream,
            group: group.to_owned(),
            requests: true,
        })
    }
}

/// A message for a stream.
pub(super) struct Append {
    pub(super) stream: String,
    pub(super) address: Address,
    pub(super) item: Vec<u8>,
    /// Entries of the stream, about: the oldest go, whether or not all groups have read them.
    pub(super) backlog: u32,
    /// How well the broker keeps what it accepts.
    pub(super) durability: Durability,
    pub(super) done: oneshot::Sender<Result<Accepted, TransportError>>,
}

impl Append {
    /// Adds it to the stream, and publishes it to whoever listens without a group: two commands. The body goes over the
    /// wire twice, which costs less than taking it through a script. Trimming may be left to a later message: see
    /// [`Trimming`].
    pub(super) fn write(&self, trim: bool, out: &mut Vec<u8>) {
        let address = self.address.as_str().as_bytes();
        out.reserve(2 * self.item.len() + 256);
        // What is always the same is written as it is on the connection.
        out.extend_from_slice(if trim { b"*10" } else { b"*7" });
        out.extend_from_slice(b"\r\n$4\r\nXADD\r\n");
        resp::word(out, self.stream.as_bytes());
        if trim {
            out.extend_from_slice(b"$6\r\nMAXLEN\r\n$1\r\n~\r\n");
            resp::number(out, i64::from(self.backlog));
        }
        out.extend_from_slice(b"$1\r\n*\r\n$1\r\na\r\n");
        resp::word(out, address);
        out.extend_from_slice(b"$1\r\nm\r\n");
        resp::word(out, &self.item);
        out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
        resp::word(out, address);
        resp::word(out, &self.item);
    }

    /// The broker answered: how many listened, or why it refused one of the two.
    pub(super) fn answered(self, answer: &Value) {
        let result = match answer {
            Value::Int(_) => Ok(Accepted {
                durability: self.durability,
                receivers: None,
                ..Accepted::default()
            }),
            Value::Error(error) => Err(TransportError {
                execution: Execution::MayHaveRun,
                ..fault::refused(&self.what(), error)
            }),
            _ => Err(TransportError::may_have_run(
                TransportErrorKind::Protocol,
                format!(
                    "cannot {}: the broker answered what was not asked for",
                    self.what()
                ),
            )),
        };
        let _ = self.done.send(result);
    }

    fn what(&self) -> String {
        format!("publish to `{}`", self.address)
    }

    pub(super) fn lost(self, reason: &str, execution: Execution) {
        let error = fault::lost(&self.what(), reason, execution);
        let _ = self.done.send(Err(error));
    }

    pub(super) fn unsent(self) {
        let error = fault::disconnected(&self.what());
        let _ = self.done.send(Err(error));
    }
}

/// Which messages of one write trim their stream. To look whether there is something to trim costs the broker nearly as
/// much as to add an entry, so only one of several in a row does.
#[derive(Default)]
pub(super) struct Trimming {
    stream: String,
    /// Messages to the stream in a row.
    row: usize,
}

impl Trimming {
    /// Less than the broker removes at once under any of its settings.
    const EVERY: usize = 64;

    pub(super) fn is_due(&mut self, stream: &str) -> bool {
        if self.stream != stream {
            stream.clone_into(&mut self.stream);
            self.row = 0;
        }
        self.row += 1;
        self.row % Self::EVERY == 1
    }
}

/// An entry that a group is done with. Twice does no harm, so it is written until the broker has heard it.
pub(super) struct Ack {
    pub(super) place: Arc<Place>,
    pub(super) id: EntryId,
}

impl Ack {
    pub(super) fn place(&self) -> &str {
        &self.place.both
    }
}

/// Writes acknowledgements of one group.
pub(super) fn write_acks(acks: &[Ack], out: &mut Vec<u8>) {
    let Some(first) = acks.first() else { return };
    resp::begin(out, 3 + acks.len());
    resp::word(out, b"XACK");
    resp::word(out, first.place.stream.as_bytes());
    resp::word(out, first.place.group.as_bytes());
    for ack in acks {
        ack.id.write(out);
    }
}

/// Tells when acknowledgements were refused; their messages come again.
pub(super) fn acknowledged(acks: &[Ack], answer: &Value) {
    if let (Value::Error(error), Some(first)) = (answer, acks.first()) {
        tracing::warn!(
            stream = first.place.stream,
            group = first.place.group,
            count = acks.len(),
            error = fault::text(error),
            "the broker refused acknowledgements; the messages will be delivered again"
        );
    }
}

/// How well the broker keeps what it accepts, asked for from time to time.
#[derive(Default)]
pub(super) struct Persistence {
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    since: Instant,
    /// The connections that were lost by then: the next broker may be set up in another way.
    losses: u64,
    durability: Durability,
}

impl Persistence {
    /// What is known now.
    pub(super) fn known(&self, handle: &Handle) -> Option<Durability> {
        let known = (*self.known.lock())?;
        let holds = known.losses == *handle.losses.borrow() && known.since.elapsed() < BELIEVED;
        holds.then_some(known.durability)
    }

    pub(super) async fn get(&self, handle: &Handle, limit: Duration) -> Durability {
        if let Some(durability) = self.known(handle) {
            return durability;
        }
        let losses = *handle.losses.borrow();
        let durability = ask(handle, limit).await;
        *self.known.lock() = Some(Known {
            since: Instant::now(),
            losses,
            durability,
        });
        durability
    }
}

/// Says what is certain: a user who may not ask is told the least.
async fn ask(handle: &Handle, limit: Duration) -> Durability {
    let info = handle
        .ask(limit, "ask about persistence", &[b"INFO", b"persistence"])
        .await;
    let append_only = info
        .as_ref()
        .ok()
        .and_then(Value::as_str)
        .is_some_and(|text| text.lines().any(|line| line.trim() == "aof_enabled:1"));
    if !append_only {
        return Durability::BrokerMemory;
    }
    let words: [&[u8]; 3] = [b"CONFIG", b"GET", b"appendfsync"];
    match handle.ask(limit, "ask about persistence", &words).await {
        Ok(Value::Array(pair)) if pair.get(1).and_then(Value::as_str) == Some("always") => {
            Durability::BrokerDisk
        }
        _ => Durability::BrokerFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the broker is told to trim, of each message to these streams in one write.
    fn trims(streams: &[&str]) -> Vec<bool> {
        let mut trimming = Trimming::default();
        let trims = streams.iter().map(|stream| {
            let append = Append {
                stream: (*stream).to_owned(),
                address: Address::new("a.b").unwrap(),
                item: b"{}".to_vec(),
                backlog: 100_000,
                durability: Durability::BrokerMemory,
                done: oneshot::channel().0,
            };
            let mut out = Vec::new();
            append.write(trimming.is_due(stream), &mut out);
            let text = String::from_utf8(out).unwrap();
            let limit = "$6\r\nMAXLEN\r\n$1\r\n~\r\n$6\r\n100000\r\n";
            let words = if text.contains(limit) { 10 } else { 7 };
            let begin = format!("*{words}\r\n$4\r\nXADD\r\n");
            assert!(text.starts_with(&begin) && text.contains("PUBLISH"), "{text}");
            words == 10
        });
        trims.collect()
    }

    #[test]
    fn one_message_of_a_row_trims_its_stream() {
        let row = trims(&["a"; 200]);
        let at: Vec<_> = (0..row.len()).filter(|index| row[*index]).collect();
        assert_eq!(at, [0, 64, 128, 192]);
        assert_eq!(trims(&["a", "a", "b", "a"]), [true, false, true, true]);
    }
}
