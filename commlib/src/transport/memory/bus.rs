//! The bus itself: work queues, inboxes, subscriptions and groups, and how messages go through them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::faults::{MemoryFaults, Weather};
use super::queue::{Content, Queues, Requester};
use super::topics::Topics;
use crate::envelope::native;
use crate::transport::claims::Claims;

static BUSES: LazyLock<Mutex<HashMap<String, Weak<Bus>>>> = LazyLock::new(Mutex::default);

/// One in-process bus, for tests that put in bytes of their own or look at what is on the bus.
#[derive(Default)]
pub struct Bus {
    pub(super) queues: Queues,
    pub(super) topics: Topics,
    pub(super) kept: Mutex<super::durable::Kept>,
    pub(super) claims: Claims,
    pub(super) inboxes: Mutex<HashMap<String, Inbox>>,
    next: AtomicU64,
    weather: Mutex<Option<Arc<Weather>>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

/// Where a reply to a message that came as bytes goes.
pub(super) enum Inbox {
    Node(Requester),
    Raw(tokio::sync::mpsc::UnboundedSender<Bytes>),
}

impl Bus {
    /// The bus of a name, made if nobody is connected to it.
    #[must_use]
    pub fn named(name: &str) -> Arc<Self> {
        let mut buses = BUSES.lock();
        if let Some(bus) = buses.get(name).and_then(Weak::upgrade) {
            return bus;
        }
        buses.retain(|_, bus| bus.strong_count() > 0);
        let bus = Arc::new(Self::default());
        buses.insert(name.to_owned(), Arc::downgrade(&bus));
        bus
    }

    /// Lets things go wrong on the connections of all nodes that connect to this bus from now on, while this value or a
    /// node of it is kept.
    pub fn set_faults(&self, faults: MemoryFaults) {
        *self.weather.lock() = Some(Arc::new(Weather::new(faults)));
    }

    pub(super) fn weather(&self) -> Option<Arc<Weather>> {
        self.weather.lock().clone()
    }

    /// Puts bytes on a work queue, whatever they are. Returns whether somebody consumes it.
    pub fn push_raw(self: &Arc<Self>, address: &str, bytes: impl Into<Bytes>) -> bool {
        let content = Content::Raw(bytes.into());
        self.queues.push(address, content, None).is_ok()
    }

    /// Publishes bytes to a topic, whatever they are. Returns how many subscriptions and groups match.
    pub fn publish_raw(self: &Arc<Self>, address: &str, bytes: impl Into<Bytes>) -> u64 {
        let message = native::decode_topic(&bytes.into());
        self.topics.broadcast(&self.topics.audience(address), message)
    }

    /// Opens a reply address and returns what is written to it.
    pub fn listen_raw(&self, reply_to: &str) -> tokio::sync::mpsc::UnboundedReceiver<Bytes> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.inboxes
            .lock()
            .insert(reply_to.to_owned(), Inbox::Raw(sender));
        receiver
    }

    /// How many messages wait on a work queue.
    #[must_use]
    pub fn queued(&self, address: &str) -> usize {
        self.queues.len(address)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands over a reply in the form of bytes.
    pub(super) fn answer(&self, reply_to: &str, correlation_id: &str, bytes: Bytes) {
        let inboxes = self.inboxes.lock();
        match inboxes.get(reply_to) {
            Some(Inbox::Node(requester)) => {
                let requester = requester.clone();
                drop(inboxes);
                match native::decode(&bytes) {
                    Ok((reply, _)) => requester.reply(correlation_id, reply),
                    Err(error) => requester.sink.malformed(correlation_id, error),
                }
            }
            Some(Inbox::Raw(sender)) => {
                // A listener that went away is a caller that went away.
                let _ = sender.send(bytes);
            }
            None => tracing::debug!("dropped a reply to an inbox that is gone"),
        }
    }
}
