//! The bus itself: work queues, inboxes, subscriptions and groups, and how messages go through them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::super::{
    Delivery, ReplySink, RequestSink, Taken, TopicMessage, TopicSink, TransportError, TransportErrorKind,
};
use super::responder::{MemoryResponder, ReplyRoute};
use crate::address::{Address, Pattern};
use crate::envelope::{Envelope, Malformed, native};

/// How many messages a work queue or a group keeps while its consumers are busy.
const QUEUE_LIMIT: usize = 10_000;

static BUSES: LazyLock<Mutex<HashMap<String, Weak<Bus>>>> = LazyLock::new(Mutex::default);

/// One in-process bus, for tests that put in bytes of their own or look at what is on the bus.
#[derive(Default)]
pub struct Bus {
    pub(super) state: Mutex<State>,
    next: AtomicU64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queues: HashMap<String, Queue>,
    pub(super) inboxes: HashMap<String, Inbox>,
    pub(super) subscriptions: Vec<Arc<Subscriber>>,
    pub(super) groups: HashMap<(String, String), GroupQueue>,
}

pub(super) enum Inbox {
    Node {
        sink: Arc<dyn ReplySink>,
        max_body: usize,
    },
    Raw(tokio::sync::mpsc::UnboundedSender<Bytes>),
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    pub(super) consumers: VecDeque<Arc<QueueConsumer>>,
}

pub(super) struct Item {
    pub(super) bytes: Bytes,
    pub(super) expires: Option<Instant>,
}

pub(super) struct QueueConsumer {
    pub(super) id: u64,
    pub(super) index: usize,
    /// All that this consumer takes from: its permits are shared by them.
    pub(super) addresses: Arc<[Address]>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) max_body: usize,
    pub(super) sink: Arc<dyn RequestSink>,
}

pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) pattern: Pattern,
    pub(super) max_body: usize,
    pub(super) sink: Arc<dyn TopicSink>,
}

pub(super) struct GroupQueue {
    pub(super) pattern: Pattern,
    pub(super) members: Vec<Arc<Subscriber>>,
    pub(super) items: Arc<GroupItems>,
}

/// The messages of a group that no member has taken yet.
#[derive(Default)]
pub(super) struct GroupItems {
    queue: Mutex<VecDeque<(String, Bytes)>>,
    arrived: Notify,
}

impl GroupItems {
    pub(super) async fn next(&self) -> (String, Bytes) {
        loop {
            if let Some(item) = self.queue.lock().pop_front() {
                return item;
            }
            // A notification without a waiter is kept, so none is missed between the look and the wait.
            self.arrived.notified().await;
        }
    }
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

    /// Puts bytes on a work queue, whatever they are. Returns whether somebody consumes it.
    pub fn push_raw(self: &Arc<Self>, address: &str, bytes: impl Into<Bytes>) -> bool {
        self.push(address, bytes.into(), None).is_ok()
    }

    /// Publishes bytes to a topic, whatever they are. Returns how many subscriptions and groups match.
    pub fn publish_raw(self: &Arc<Self>, address: &str, bytes: impl Into<Bytes>) -> u64 {
        self.broadcast(address, &bytes.into())
    }

    /// Opens a reply address and returns what is written to it.
    pub fn listen_raw(&self, reply_to: &str) -> tokio::sync::mpsc::UnboundedReceiver<Bytes> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.state
            .lock()
            .inboxes
            .insert(reply_to.to_owned(), Inbox::Raw(sender));
        receiver
    }

    /// How many messages wait on a work queue.
    #[must_use]
    pub fn queued(&self, address: &str) -> usize {
        self.state
            .lock()
            .queues
            .get(address)
            .map_or(0, |queue| queue.items.len())
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn push(
        self: &Arc<Self>,
        address: &str,
        bytes: Bytes,
        ttl: Option<Duration>,
    ) -> Result<(), TransportError> {
        let mut state = self.state.lock();
        let Some(queue) = state
            .queues
            .get_mut(address)
            .filter(|queue| !queue.consumers.is_empty())
        else {
            return Err(TransportError::did_not_run(
                TransportErrorKind::NoResponders,
                format!("nobody serves `{address}` on this in-process bus"),
            ));
        };
        if queue.items.len() >= QUEUE_LIMIT {
            return Err(TransportError::did_not_run(
                TransportErrorKind::QueueFull,
                format!("{QUEUE_LIMIT} messages wait for `{address}` already"),
            ));
        }
        queue.items.push_back(Item {
            bytes,
            expires: ttl.map(|ttl| Instant::now() + ttl),
        });
        drop(state);
        self.pump(address);
        Ok(())
    }

    /// Hands waiting messages to consumers that have permits, in turn.
    pub(super) fn pump(self: &Arc<Self>, address: &str) {
        while let Some((item, consumer, permit)) = self.take(address) {
            let size = item.bytes.len();
            let mut reply = ReplyRoute::default();
            // The envelope around a body is small; a body at the limit must still fit.
            let mut taken = match native::decode(&item.bytes) {
                Ok((message, dialect)) => {
                    reply = ReplyRoute {
                        reply_to: message.meta.reply_to.clone(),
                        correlation_id: message
                            .meta
                            .correlation_id
                            .clone()
                            .or_else(|| message.meta.id.clone()),
                        dialect,
                    };
                    if message.data.len() > consumer.max_body {
                        Taken::TooLarge {
                            size: message.data.len(),
                        }
                    } else {
                        Taken::Message(message)
                    }
                }
                Err(_) if size > consumer.max_body => Taken::TooLarge { size },
                Err(malformed) => {
                    reply.reply_to.clone_from(&malformed.reply_to);
                    reply.correlation_id.clone_from(&malformed.correlation_id);
                    Taken::Malformed(malformed)
                }
            };
            if !reply.check(address) {
                taken = Taken::Malformed(Malformed::forged());
            }
            consumer.sink.deliver(Delivery {
                address: consumer.index,
                taken,
                redelivered: false,
                responder: Box::new(MemoryResponder {
                    bus: Arc::clone(self),
                    addresses: Arc::clone(&consumer.addresses),
                    index: consumer.index,
                    item: Some(item),
                    permit: Some(permit),
                    reply,
                }),
            });
        }
    }

    fn take(&self, address: &str) -> Option<(Item, Arc<QueueConsumer>, OwnedSemaphorePermit)> {
        let mut state = self.state.lock();
        let queue = state.queues.get_mut(address)?;
        while queue
            .items
            .front()
            .is_some_and(|item| item.expires.is_some_and(|at| at <= Instant::now()))
        {
            queue.items.pop_front();
        }
        if queue.items.is_empty() {
            return None;
        }
        for _ in 0..queue.consumers.len() {
            queue.consumers.rotate_left(1);
            let consumer = queue.consumers.back()?;
            if let Ok(permit) = Arc::clone(&consumer.permits).try_acquire_owned() {
                return Some((queue.items.pop_front()?, Arc::clone(consumer), permit));
            }
        }
        None
    }

    /// Gives a message back to the head of its queue; with nobody left to take it, it is gone.
    pub(super) fn give_back(self: &Arc<Self>, address: &str, item: Item) {
        if let Some(queue) = self.state.lock().queues.get_mut(address) {
            queue.items.push_front(item);
        }
    }

    pub(super) fn remove_consumer(self: &Arc<Self>, id: u64) {
        let mut addresses = Vec::new();
        let mut state = self.state.lock();
        state.queues.retain(|address, queue| {
            let before = queue.consumers.len();
            queue.consumers.retain(|consumer| consumer.id != id);
            if queue.consumers.len() != before {
                addresses.push(address.clone());
            }
            !queue.consumers.is_empty()
        });
        drop(state);
        for address in addresses {
            self.pump(&address);
        }
    }

    pub(super) fn answer(&self, reply_to: &str, correlation_id: &str, bytes: Bytes) {
        let state = self.state.lock();
        match state.inboxes.get(reply_to) {
            Some(Inbox::Node { sink, max_body }) => {
                let (sink, max_body) = (Arc::clone(sink), *max_body);
                drop(state);
                match native::decode(&bytes) {
                    Ok((reply, _)) if reply.data.len() <= max_body => sink.reply(correlation_id, reply),
                    Ok((reply, _)) => sink.failed(
                        correlation_id,
                        TransportError {
                            kind: TransportErrorKind::TooLarge,
                            execution: crate::Execution::Failed,
                            message: format!(
                                "the reply has {} bytes, over the limit of {max_body}",
                                reply.data.len()
                            ),
                        },
                    ),
                    Err(error) => sink.malformed(correlation_id, error),
                }
            }
            Some(Inbox::Raw(sender)) => {
                // A listener that went away is a caller that went away.
                let _ = sender.send(bytes);
            }
            None => tracing::debug!("dropped a reply to an inbox that is gone"),
        }
    }

    pub(super) fn broadcast(&self, address: &str, bytes: &Bytes) -> u64 {
        let state = self.state.lock();
        let direct: Vec<_> = state
            .subscriptions
            .iter()
            .filter(|subscriber| subscriber.pattern.matches(address))
            .cloned()
            .collect();
        let mut receivers = direct.len();
        for group in state
            .groups
            .values()
            .filter(|group| group.pattern.matches(address))
        {
            receivers += 1;
            let mut queue = group.items.queue.lock();
            if queue.len() >= QUEUE_LIMIT {
                queue.pop_front();
                group
                    .members
                    .iter()
                    .for_each(|member| member.sink.dropped("the group's queue is full"));
            }
            queue.push_back((address.to_owned(), bytes.clone()));
            drop(queue);
            group.items.arrived.notify_one();
        }
        drop(state);
        if !direct.is_empty() {
            let decoded = native::decode_topic(bytes);
            for subscriber in direct {
                subscriber.deliver(address, decoded.clone(), None);
            }
        }
        receivers as u64
    }
}

impl Subscriber {
    pub(super) fn deliver(
        &self,
        address: &str,
        message: Result<Envelope, crate::envelope::Malformed>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        match message {
            Ok(message) if message.data.len() > self.max_body => {
                self.sink.dropped("the message is over the size limit")
            }
            Ok(message) => self.sink.message(TopicMessage {
                address: address.to_owned(),
                message,
                permit,
            }),
            Err(error) => self.sink.dropped(&error.reason),
        }
    }
}
