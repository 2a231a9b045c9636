//! The connection itself, which messages and the client library share.
//!
//! lapin greets, logs in, opens channels, declares, consumes and closes. It has a thread for its connection: each message
//! would go through that on its way, at the price of two changes of threads, and would be read by a parser that ends the
//! connection, or the process, over what brokers pass on. So messages don't come near it. One task per connection owns
//! the socket. What it reads is split into frames: deliveries, returned messages, confirms and answers to `basic.get` go
//! from there to whoever waits for them, everything else to the library. What is written, by the library or by those
//! who publish and acknowledge, is put behind one another frame by frame, and goes out with as few writes as it takes.
//!
//! The library is made to believe that frames are small: it reserves, and fills with zeros, room for 32 frames each way
//! while it connects, on the thread that everything else of the program may wait for. With frames of 128 KiB that was
//! 8 MiB for a connection, so that a program with hundreds of them stood still for seconds when they came back. What it
//! reads and writes itself is short. Messages have the size that is agreed on with the broker.
//!
//! What both sides have to agree on: the library uses no publishes, no acknowledgements and no `basic.get` on these
//! connections; and nothing is written on a channel after the library has closed it, or has answered that the broker did
//! (the broker would end the connection over that).

mod channel;
mod driver;
mod frames;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod library;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use lapin::BasicProperties;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(super) use self::channel::{Channel, Consume, Consuming, Incoming};
pub(super) use self::frames::Destination;
pub(super) use self::library::runtime;

/// Bytes that were not written, beyond which no more is put behind them as long as it can wait.
const ROOM: u64 = 16 * 1024 * 1024;

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) delivery_tag: u64,
    pub(super) redelivered: bool,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    /// Why its properties can't be trusted: then only those are there that could be read.
    pub(super) malformed: Option<&'static str>,
    /// How large its body is, in bytes.
    pub(super) size: usize,
    /// Its body; only the beginning of one that is larger than its consumer takes.
    pub(super) data: Bytes,
    /// When its end was read.
    pub(super) came: tokio::time::Instant,
}

/// Hears what becomes of the messages that a channel sends. The task of the connection calls it, so it never waits.
pub(super) trait Publisher: Send + Sync {
    /// So many bytes of the connection were written. Returns whether it still waits for others.
    fn written(&self, bytes: u64) -> bool;

    /// The broker has taken a message, or refused it; perhaps also all before it that were not confirmed.
    fn confirmed(&self, number: u64, multiple: bool, accepted: bool);

    /// Nobody would get it. Comes before its confirm.
    fn returned(&self, message: Message);
}

/// A message that was put behind all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// By which the broker confirms it, on a channel that confirms.
    pub(super) number: u64,
    /// It is written when so many bytes of the connection are.
    pub(super) end: u64,
}

/// In bytes. The broker and we agree on the smaller of this and what the broker wants. Our headers have to fit into one.
const FRAME_MAX: u32 = 128 * 1024;
/// What every peer takes, in bytes, whatever a broker says: the `frame-min-size` of AMQP 0-9-1.
const FRAME_MIN: u32 = 4096;
/// What the library wants, in bytes: twice the smallest size that the protocol knows, as it holds the greeting of the broker
/// against it, too, which tells of the broker what its owner pleases.
pub(super) const LIBRARY_FRAME_MAX: u32 = 8192;

type Deliver = Arc<dyn Fn(Message) + Send + Sync>;

/// Who takes the messages of a consumer.
#[derive(Clone)]
struct Consumer {
    /// No other consumer of the connection has it.
    tag: u64,
    /// Of bodies that are larger, in bytes, only the beginning is kept.
    max_body: usize,
    deliver: Deliver,
}

type Answer = oneshot::Sender<Option<Message>>;

/// What is known of a channel here.
pub(super) struct ChannelState {
    id: u16,
    /// Changed under the lock of [`Out`], so that nothing is written on it afterwards.
    open: AtomicBool,
    /// Cancelled when it is not open any more.
    ended: CancellationToken,
    /// Why the broker closed it.
    cause: OnceLock<lapin::Error>,
    /// Messages sent so far. Under the lock of [`Out`].
    published: AtomicU64,
    /// Whether its publisher is among those that wait for a write. Under the lock of [`Out`].
    waits: AtomicBool,
    publisher: OnceLock<Weak<dyn Publisher>>,
    consumers: Mutex<Vec<Consumer>>,
    /// Those who asked for one message, in this order.
    asked: Mutex<std::collections::VecDeque<Answer>>,
}

impl fmt::Debug for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelState")
            .field("id", &self.id)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl ChannelState {
    fn new(id: u16) -> Self {
        Self {
            id,
            open: AtomicBool::new(true),
            ended: CancellationToken::new(),
            cause: OnceLock::new(),
            published: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            publisher: OnceLock::new(),
            consumers: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        self.publisher.get()?.upgrade()
    }

    /// Nothing comes any more, either.
    fn end(&self) {
        self.open.store(false, Ordering::Relaxed);
        let consumers = std::mem::take(&mut *self.consumers.lock());
        let asked = std::mem::take(&mut *self.asked.lock());
        drop((consumers, asked));
        self.ended.cancel();
    }
}

/// What is to be written.
#[derive(Debug, Default)]
struct Out {
    /// Not taken by the task yet.
    bytes: Vec<u8>,
    /// How many the task has taken before.
    taken: u64,
    closed: bool,
    /// Whose publishers wait for a write.
    waiting: Vec<Arc<ChannelState>>,
}

impl Out {
    fn queued(&self) -> u64 {
        self.taken + self.bytes.len() as u64
    }
}

/// What the library is to read.
#[derive(Debug, Default)]
struct Inward {
    bytes: Vec<u8>,
    read: usize,
    waker: Option<Waker>,
    /// The connection is gone.
    ended: Option<std::io::ErrorKind>,
    /// The library wants no more.
    left: bool,
}

/// See the [module](self).
pub(super) struct Wire {
    out: Mutex<Out>,
    task: AtomicWaker,
    /// Bytes that the socket has taken.
    written: AtomicU64,
    /// How often something came from the broker.
    heard: AtomicU64,
    inward: Mutex<Inward>,
    channels: Mutex<HashMap<u16, Arc<ChannelState>>>,
    /// Of the next consumer.
    tags: AtomicU64,
    /// In bytes, as both sides agreed.
    frame_max: AtomicU32,
    ended: CancellationToken,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("ended", &self.ended.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Wire {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            out: Mutex::default(),
            task: AtomicWaker::new(),
            written: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            inward: Mutex::default(),
            channels: Mutex::default(),
            tags: AtomicU64::new(1),
            frame_max: AtomicU32::new(FRAME_MAX),
            ended: CancellationToken::new(),
        })
    }

    /// The broker wants no larger frames than these; 0 if any will do.
    fn tune(&self, frame_max: u32) {
        let agreed = match frame_max {
            0 => FRAME_MAX,
            wanted => wanted.clamp(FRAME_MIN, FRAME_MAX),
        };
        self.frame_max.store(agreed, Ordering::Relaxed);
    }

    /// Counts what comes from the broker: as long as it grows, the broker is there.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether the connection is gone.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Whether the socket takes what is written about as fast as it comes.
    fn has_room(&self, out: &Out) -> bool {
        out.queued() - self.written.load(Ordering::Relaxed) < ROOM
    }

    /// Writes nothing more than what was taken already. Whatever ends behind the number of bytes that is returned is not
    /// written, and never will be.
    pub(super) fn seal(&self) -> u64 {
        let mut out = self.out.lock();
        out.closed = true;
        out.bytes = Vec::new();
        out.taken
    }

    /// Puts something behind what is to be written.
    fn put<T>(&self, write: impl FnOnce(&mut Out) -> T) -> T {
        let mut out = self.out.lock();
        let idle = out.bytes.is_empty();
        let result = write(&mut out);
        let wakes = idle && !out.bytes.is_empty();
        drop(out);
        if wakes {
            self.task.wake();
        }
        result
    }

    /// Writes on a channel, if it is open.
    fn write<T>(&self, state: &ChannelState, write: impl FnOnce(&mut Vec<u8>, u16) -> T) -> Option<T> {
        self.put(|out| {
            // On one that is gone there is nothing to acknowledge, either: the broker has given the messages to another
            // consumer.
            let open = !out.closed && state.open.load(Ordering::Relaxed);
            open.then(|| write(&mut out.bytes, state.id))
        })
    }

    fn publish(
        &self,
        state: &Arc<ChannelState>,
        to: Destination<'_>,
        properties: &BasicProperties,
        body: &[u8],
        tell: bool,
    ) -> Option<Sent> {
        self.put(|out| {
            if out.closed || !state.open.load(Ordering::Relaxed) {
                return None;
            }
            let frame_max = usize::try_from(self.frame_max.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
            frames::publish(&mut out.bytes, state.id, to, properties, body, frame_max);
            if tell && !state.waits.swap(true, Ordering::Relaxed) {
                out.waiting.push(Arc::clone(state));
            }
            Some(Sent {
                number: state.published.fetch_add(1, Ordering::Relaxed) + 1,
                end: out.queued(),
            })
        })
    }

    /// Nothing is written on a channel any more. What the broker sent before it heard of that may still come. The lock of
    /// what is to be written has to be held, so that nobody is just about to write on it.
    fn close_channel(&self, id: u16, _: &mut Out) {
        if let Some(state) = self.channels.lock().get(&id) {
            state.open.store(false, Ordering::Relaxed);
        }
    }

    /// Nothing comes on a channel any more, and nothing goes. Nobody is told of that before the library knows it: it would
    /// close a channel that the broker has closed, and end the connection over the answer.
    fn end_channel(&self, id: u16) {
        let mut out = self.out.lock();
        let Some(state) = self.channels.lock().remove(&id) else {
            return;
        };
        state.open.store(false, Ordering::Relaxed);
        out.waiting.retain(|waiting| !Arc::ptr_eq(waiting, &state));
        drop(out);
        state.end();
    }

    /// Nothing comes and goes any more.
    fn end(&self, reason: std::io::ErrorKind) {
        self.seal();
        let channels = std::mem::take(&mut *self.channels.lock());
        self.out.lock().waiting.clear();
        for state in channels.into_values() {
            state.end();
        }
        let mut inward = self.inward.lock();
        inward.ended.get_or_insert(reason);
        let waker = inward.waker.take();
        drop(inward);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests;
