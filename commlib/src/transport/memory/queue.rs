//! The work queues of a bus.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::bus::Bus;
use super::responder::{MemoryResponder, ReplyRoute, ReplyTo};
use crate::address::Address;
use crate::envelope::{Envelope, Malformed, native};
use crate::transport::{Delivery, ReplySink, RequestSink, Taken, TransportError, TransportErrorKind};

/// How many messages a work queue keeps while its consumers are busy.
const LIMIT: usize = 10_000;

/// The work queues that somebody consumes.
#[derive(Default)]
pub(super) struct Queues {
    by_address: Mutex<HashMap<String, Queue>>,
    /// How many messages wait in all of them, so that the usual end of a request needs no lock to learn that none does.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    consumers: VecDeque<Arc<QueueConsumer>>,
}

/// A message that waits.
struct Item {
    content: Content,
    expires: Option<Instant>,
}

/// A message in a work queue.
#[expect(
    clippy::large_enum_variant,
    reason = "outside of tests there is only the large one"
)]
pub(super) enum Content {
    /// From a node of this bus: nothing is encoded that is decoded at once.
    Message(Envelope, Option<Requester>),
    /// Whatever a test put in.
    Raw(Bytes),
}

/// Who waits for the reply to a message of a node.
#[derive(Clone)]
pub(super) struct Requester {
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) max_body: usize,
}

/// One consumer of one work queue.
pub(super) struct QueueConsumer {
    pub(super) id: u64,
    pub(super) index: usize,
    /// All that this consumer takes from: its permits are shared by them.
    pub(super) addresses: Arc<[Address]>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) max_body: usize,
    pub(super) sink: Arc<dyn RequestSink>,
}

/// A message and who is to have it.
type Match = (Content, Arc<QueueConsumer>, OwnedSemaphorePermit);

impl Queue {
    /// The next consumer, in turn, that has a permit.
    fn free_consumer(&mut self) -> Option<(Arc<QueueConsumer>, OwnedSemaphorePermit)> {
        for _ in 0..self.consumers.len() {
            self.consumers.rotate_left(1);
            let consumer = self.consumers.back()?;
            if let Ok(permit) = Arc::clone(&consumer.permits).try_acquire_owned() {
                return Some((Arc::clone(consumer), permit));
            }
        }
        None
    }
}

impl Queues {
    pub(super) fn add(&self, address: &str, consumer: QueueConsumer) {
        self.by_address
            .lock()
            .entry(address.to_owned())
            .or_default()
            .consumers
            .push_back(Arc::new(consumer));
    }

    /// How many messages wait for an address.
    pub(super) fn len(&self, address: &str) -> usize {
        self.by_address
            .lock()
            .get(address)
            .map_or(0, |queue| queue.items.len())
    }

    /// Hands a message to a consumer, or lets it wait for one.
    pub(super) fn push(
        &self,
        bus: &Arc<Bus>,
        address: &str,
        content: Content,
        time_to_live: Option<Duration>,
    ) -> Result<(), TransportError> {
        let mut queues = self.by_address.lock();
        let Some(queue) = queues
            .get_mut(address)
            .filter(|queue| !queue.consumers.is_empty())
        else {
            return Err(TransportError::did_not_run(
                TransportErrorKind::NoResponders,
                format!("nobody serves `{address}` on this in-process bus"),
            ));
        };
        if queue.items.is_empty()
            && let Some((consumer, permit)) = queue.free_consumer()
        {
            drop(queues);
            deliver(bus, address, (content, consumer, permit));
            return Ok(());
        }
        if queue.items.len() >= LIMIT {
            return Err(TransportError::did_not_run(
                TransportErrorKind::QueueFull,
                format!("{LIMIT} messages wait for `{address}` already"),
            ));
        }
        queue.items.push_back(Item {
            content,
            expires: time_to_live.map(|left| Instant::now() + left),
        });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(queues);
        // A permit that came free a moment ago may have been given back by one who saw nothing waiting.
        fence(Ordering::SeqCst);
        self.pump(bus, address);
        Ok(())
    }

    /// Hands waiting messages to consumers that have permits, in turn.
    pub(super) fn pump(&self, bus: &Arc<Bus>, address: &str) {
        while let Some(matched) = self.take(address) {
            deliver(bus, address, matched);
        }
    }

    /// The permit of a request is free: others of these addresses may have waited for it.
    pub(super) fn released<'a>(&self, bus: &Arc<Bus>, addresses: impl Iterator<Item = &'a Address>) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            for address in addresses {
                self.pump(bus, address.as_str());
            }
        }
    }

    fn take(&self, address: &str) -> Option<Match> {
        let mut queues = self.by_address.lock();
        let queue = queues.get_mut(address)?;
        while queue
            .items
            .front()
            .is_some_and(|item| item.expires.is_some_and(|at| at <= Instant::now()))
        {
            queue.items.pop_front();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if queue.items.is_empty() {
            return None;
        }
        let (consumer, permit) = queue.free_consumer()?;
        let item = queue.items.pop_front()?;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Some((item.content, consumer, permit))
    }

    /// Puts a message back at the head of its queue; with nobody left to take it, it is gone.
    pub(super) fn give_back(&self, address: &str, content: Content) {
        if let Some(queue) = self.by_address.lock().get_mut(address) {
            queue.items.push_front(Item {
                content,
                expires: None,
            });
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn remove_consumer(&self, bus: &Arc<Bus>, id: u64) {
        let mut addresses = Vec::new();
        self.by_address.lock().retain(|address, queue| {
            let before = queue.consumers.len();
            queue.consumers.retain(|consumer| consumer.id != id);
            if queue.consumers.len() != before {
                addresses.push(address.clone());
            }
            let served = !queue.consumers.is_empty();
            if !served {
                self.waiting.fetch_sub(queue.items.len(), Ordering::SeqCst);
            }
            served
        });
        for address in addresses {
            self.pump(bus, &address);
        }
    }
}

fn deliver(bus: &Arc<Bus>, address: &str, (content, consumer, permit): Match) {
    let (taken, reply, raw) = match content {
        Content::Message(message, requester) => {
            let reply = ReplyRoute::to_node(&message, requester);
            (within(message, consumer.max_body), reply, None)
        }
        Content::Raw(bytes) => {
            let (taken, reply) = read(&bytes, address, consumer.max_body);
            (taken, reply, Some(bytes))
        }
    };
    consumer.sink.deliver(Delivery {
        address: consumer.index,
        taken,
        redelivered: false,
        waited_for: matches!(reply.to, ReplyTo::Node(_)),
        responder: Box::new(MemoryResponder {
            bus: Arc::clone(bus),
            addresses: Arc::clone(&consumer.addresses),
            index: consumer.index,
            permit: Some(permit),
            raw,
            reply,
        }),
    });
}

fn within(message: Envelope, max_body: usize) -> Taken {
    match message.data.len() {
        size if size > max_body => Taken::TooLarge { size },
        _ => Taken::Message(message),
    }
}

fn read(bytes: &Bytes, address: &str, max_body: usize) -> (Taken, ReplyRoute) {
    let mut reply = ReplyRoute::default();
    // The envelope around a body is small; a body at the limit must still fit.
    let taken = match native::decode(bytes) {
        Ok((message, dialect)) => {
            reply = ReplyRoute::from_message(&message, dialect);
            within(message, max_body)
        }
        Err(_) if bytes.len() > max_body => Taken::TooLarge { size: bytes.len() },
        Err(malformed) => {
            reply = ReplyRoute::from_malformed(&malformed);
            Taken::Malformed(malformed)
        }
    };
    if reply.check(address) {
        (taken, reply)
    } else {
        (Taken::Malformed(Malformed::forged()), reply)
    }
}
