//! The work queues of a bus.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::bus::Bus;
use super::responder::{MemoryResponder, ReplyRoute, ReplyTo};
use crate::address::Address;
use crate::envelope::{Envelope, Malformed, native};
use crate::limits::QUEUE_LENGTH;
use crate::transport::{
    ConsumeSpec, Delivery, ReplySink, RequestSink, Taken, TransportError, TransportErrorKind,
};

/// How many messages a work queue keeps while its consumers are busy.
const LIMIT: usize = QUEUE_LENGTH as usize;

/// The work queues that somebody consumes.
#[derive(Default)]
pub(super) struct Queues {
    by_address: Mutex<HashMap<String, Queue>>,
    waiting: Arc<Waiting>,
}

/// How many messages wait in all queues, so that the usual end of a request needs no lock to learn that none does.
#[derive(Default)]
struct Waiting(AtomicUsize);

impl Waiting {
    fn more(&self, messages: usize) {
        self.0.fetch_add(messages, Ordering::SeqCst);
    }

    fn fewer(&self, messages: usize) {
        self.0.fetch_sub(messages, Ordering::SeqCst);
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
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
    id: u64,
    index: usize,
    /// All that this consumer takes from: its permits are shared by them.
    addresses: Arc<[Address]>,
    permits: Arc<Semaphore>,
    max_body: usize,
    sink: Arc<dyn RequestSink>,
    bus: Weak<Bus>,
    waiting: Arc<Waiting>,
}

/// A consumer with a permit for one message, which comes back when this is dropped.
pub(super) struct Place {
    consumer: Arc<QueueConsumer>,
}

impl Place {
    /// The bus, as long as there is one.
    pub(super) fn bus(&self) -> Option<Arc<Bus>> {
        self.consumer.bus.upgrade()
    }

    /// Puts a message back at the head of its queue.
    pub(super) fn give_back(&self, content: Content) {
        let address = self.consumer.addresses.get(self.consumer.index);
        if let (Some(bus), Some(address)) = (self.bus(), address) {
            bus.queues.give_back(address.as_str(), content);
        }
    }
}

thread_local! {
    /// The consumers that got a permit back while this thread was handing messages to one that had got one back.
    static FREED: RefCell<Option<Vec<Arc<QueueConsumer>>>> = const { RefCell::new(None) };
}

/// This thread hands out messages, until this is dropped.
struct HandingOut;

impl HandingOut {
    /// `None` if it does already, further up the stack: that one will come to this consumer.
    fn begin(consumer: &Arc<QueueConsumer>) -> Option<Self> {
        FREED.with_borrow_mut(|freed| match freed {
            Some(freed) => {
                freed.push(Arc::clone(consumer));
                None
            }
            None => {
                *freed = Some(Vec::new());
                Some(Self)
            }
        })
    }

    fn next() -> Option<Arc<QueueConsumer>> {
        FREED.with_borrow_mut(|freed| freed.as_mut().and_then(Vec::pop))
    }
}

impl Drop for HandingOut {
    fn drop(&mut self) {
        FREED.set(None);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.consumer.permits.add_permits(1);
        // Others may have waited for the permit, but may also have come after this look: they look for permits once more
        // after they have said that they wait.
        fence(Ordering::SeqCst);
        if !self.consumer.waiting.any() {
            return;
        }
        // A handler that runs on delivery ends here again; going down once more for each message would end the stack.
        if let Some(_handing_out) = HandingOut::begin(&self.consumer) {
            self.consumer.pump_all();
            while let Some(consumer) = HandingOut::next() {
                consumer.pump_all();
            }
        }
    }
}

impl QueueConsumer {
    /// Hands on what waits for this consumer, the next address first, so that none of them starves.
    fn pump_all(&self) {
        let Some(bus) = self.bus.upgrade() else {
            return;
        };
        let (before, from) = self.addresses.split_at(self.index);
        for address in from.iter().skip(1).chain(before).chain(from.first()) {
            bus.queues.pump(address.as_str());
        }
    }
}

impl Queue {
    /// The next consumer, in turn, that has a permit.
    fn place(&mut self) -> Option<Place> {
        for _ in 0..self.consumers.len() {
            self.consumers.rotate_left(1);
            let consumer = self.consumers.back()?;
            if let Ok(permit) = consumer.permits.try_acquire() {
                // The place gives it back.
                permit.forget();
                let consumer = Arc::clone(consumer);
                return Some(Place { consumer });
            }
        }
        None
    }
}

impl Queues {
    /// Adds a consumer of several queues.
    pub(super) fn consume(&self, bus: &Arc<Bus>, id: u64, spec: &ConsumeSpec) {
        let addresses: Arc<[Address]> = spec.addresses.clone().into();
        let mut queues = self.by_address.lock();
        for (index, address) in spec.addresses.iter().enumerate() {
            let consumer = QueueConsumer {
                id,
                index,
                addresses: Arc::clone(&addresses),
                permits: Arc::clone(&spec.permits),
                max_body: spec.max_body,
                sink: Arc::clone(&spec.sink),
                bus: Arc::downgrade(bus),
                waiting: Arc::clone(&self.waiting),
            };
            let queue = queues.entry(address.as_str().to_owned()).or_default();
            queue.consumers.push_back(Arc::new(consumer));
        }
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
            && let Some(place) = queue.place()
        {
            drop(queues);
            place.deliver(address, content);
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
        self.waiting.more(1);
        drop(queues);
        // A permit that came free a moment ago may have been given back by one who saw nothing waiting.
        fence(Ordering::SeqCst);
        self.pump(address);
        Ok(())
    }

    /// Hands waiting messages to consumers that have permits, in turn.
    fn pump(&self, address: &str) {
        while let Some((content, place)) = self.take(address) {
            place.deliver(address, content);
        }
    }

    fn take(&self, address: &str) -> Option<(Content, Place)> {
        let mut queues = self.by_address.lock();
        let queue = queues.get_mut(address)?;
        while queue
            .items
            .front()
            .is_some_and(|item| item.expires.is_some_and(|at| at <= Instant::now()))
        {
            queue.items.pop_front();
            self.waiting.fewer(1);
        }
        if queue.items.is_empty() {
            return None;
        }
        let place = queue.place()?;
        // Were there none after all, the place would be given back below this lock.
        let Some(item) = queue.items.pop_front() else {
            drop(queues);
            return None;
        };
        self.waiting.fewer(1);
        Some((item.content, place))
    }

    /// Puts a message back at the head of its queue; with nobody left to take it, it is gone.
    pub(super) fn give_back(&self, address: &str, content: Content) {
        if let Some(queue) = self.by_address.lock().get_mut(address) {
            queue.items.push_front(Item {
                content,
                expires: None,
            });
            self.waiting.more(1);
        }
    }

    pub(super) fn remove_consumer(&self, id: u64) {
        let mut addresses = Vec::new();
        self.by_address.lock().retain(|address, queue| {
            let before = queue.consumers.len();
            queue.consumers.retain(|consumer| consumer.id != id);
            if queue.consumers.len() != before {
                addresses.push(address.clone());
            }
            let served = !queue.consumers.is_empty();
            if !served {
                self.waiting.fewer(queue.items.len());
            }
            served
        });
        for address in addresses {
            self.pump(&address);
        }
    }
}

impl Place {
    fn deliver(self, address: &str, content: Content) {
        let consumer = Arc::clone(&self.consumer);
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
                reply,
                raw,
                place: self,
            }),
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Execution;

    /// Keeps what it gets, with the permits.
    #[derive(Default)]
    struct Busy(Mutex<Vec<Delivery>>);

    impl RequestSink for Busy {
        fn deliver(&self, delivery: Delivery) {
            self.0.lock().push(delivery);
        }
    }

    #[test]
    fn a_queue_takes_its_limit_and_not_one_more() {
        let bus = Arc::new(Bus::default());
        let sink = Arc::new(Busy::default());
        let spec = ConsumeSpec {
            service: "test".into(),
            addresses: vec![Address::new("test.busy").unwrap()],
            permits: Arc::new(Semaphore::new(1)),
            concurrency: 1,
            auto_ack: false,
            max_wait: None,
            max_body: 1024,
            sink: Arc::clone(&sink) as Arc<dyn RequestSink>,
        };
        bus.queues.consume(&bus, 1, &spec);
        let push = || {
            bus.queues
                .push("test.busy", Content::Raw(Bytes::from_static(b"{}")), None)
        };
        // The first one has the only permit.
        for number in 0..=LIMIT {
            assert!(push().is_ok(), "{number}");
        }
        let error = push().unwrap_err();
        let told = (error.kind, error.execution);
        assert_eq!(
            told,
            (TransportErrorKind::QueueFull, Execution::DidNotRun),
            "{error}"
        );
        assert_eq!((sink.0.lock().len(), bus.queues.len("test.busy")), (1, LIMIT));
        // When that one is done, the next has it, and there is room for one again.
        let done = sink.0.lock().remove(0);
        done.responder.finish();
        assert_eq!((sink.0.lock().len(), bus.queues.len("test.busy")), (1, LIMIT - 1));
        assert!(push().is_ok());
        assert!(push().is_err());
    }
}
