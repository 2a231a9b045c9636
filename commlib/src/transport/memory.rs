//! The in-process bus: the reference model of the transport contract.
//!
//! It moves the same bytes as a broker without headers would see, keeps several buses by name, and does its work in
//! the task that sends; only members of groups have a task of their own.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::{
    Accepted, BrokerUrl, Capabilities, ConnectionState, ConsumeSpec, Consumer, Delivery, ReplySink, Request,
    RequestSink, Responder, SubscribeSpec, Subscription, Taken, TopicMessage, TopicSink, Transport,
    TransportError, TransportErrorKind, TransportOptions,
};
use crate::address::{Address, Pattern};
use crate::envelope::{Dialect, Envelope, commlib_py, native};

/// How many messages a work queue or a group keeps while its consumers are busy.
const QUEUE_LIMIT: usize = 10_000;

static BUSES: LazyLock<Mutex<HashMap<String, Weak<Bus>>>> = LazyLock::new(Mutex::default);

/// Connects to the bus that the URL names, which exists as long as somebody is connected to it.
pub(super) fn connect(url: &BrokerUrl, options: &TransportOptions) -> Arc<dyn Transport> {
    Arc::new(Memory {
        bus: Bus::named(url.host()),
        reply_to: format!("commlib:reply:{}", options.node_id),
        max_body: options.max_body,
        state: watch::Sender::new(ConnectionState::Connected { generation: 1 }),
    })
}

/// One in-process bus, for tests that put in bytes of their own or look at what is on the bus.
#[derive(Default)]
pub struct Bus {
    state: Mutex<State>,
    next: AtomicU64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queues: HashMap<String, Queue>,
    inboxes: HashMap<String, Inbox>,
    subscriptions: Vec<Arc<Subscriber>>,
    groups: HashMap<(String, String), GroupQueue>,
}

enum Inbox {
    Node {
        sink: Arc<dyn ReplySink>,
        max_body: usize,
    },
    Raw(tokio::sync::mpsc::UnboundedSender<Bytes>),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    consumers: VecDeque<Arc<QueueConsumer>>,
}

struct Item {
    bytes: Bytes,
    expires: Option<Instant>,
    redelivered: bool,
}

struct QueueConsumer {
    id: u64,
    index: usize,
    /// All that this consumer takes from: its permits are shared by them.
    addresses: Arc<[Address]>,
    permits: Arc<Semaphore>,
    max_body: usize,
    sink: Arc<dyn RequestSink>,
}

struct Subscriber {
    id: u64,
    pattern: Pattern,
    max_body: usize,
    sink: Arc<dyn TopicSink>,
}

struct GroupQueue {
    pattern: Pattern,
    members: Vec<Arc<Subscriber>>,
    items: Arc<GroupItems>,
}

/// The messages of a group that no member has taken yet.
#[derive(Default)]
struct GroupItems {
    queue: Mutex<VecDeque<(String, Bytes)>>,
    arrived: Notify,
}

impl GroupItems {
    async fn next(&self) -> (String, Bytes) {
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

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn push(
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
            redelivered: false,
        });
        drop(state);
        self.pump(address);
        Ok(())
    }

    /// Hands waiting messages to consumers that have permits, in turn.
    fn pump(self: &Arc<Self>, address: &str) {
        while let Some((item, consumer, permit)) = self.take(address) {
            let size = item.bytes.len();
            let mut reply = ReplyRoute::default();
            // The envelope around a body is small; a body at the limit must still fit.
            let taken = match native::decode(&item.bytes) {
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
            reply.check(address);
            let redelivered = item.redelivered;
            consumer.sink.deliver(Delivery {
                address: consumer.index,
                taken,
                redelivered,
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
    fn give_back(self: &Arc<Self>, address: &str, mut item: Item) {
        item.redelivered = true;
        if let Some(queue) = self.state.lock().queues.get_mut(address) {
            queue.items.push_front(item);
        }
    }

    fn remove_consumer(self: &Arc<Self>, id: u64) {
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

    fn answer(&self, reply_to: &str, correlation_id: &str, bytes: Bytes) {
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

    fn broadcast(&self, address: &str, bytes: &Bytes) -> u64 {
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
    fn deliver(
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

/// Where and how a request is answered.
#[derive(Default)]
struct ReplyRoute {
    reply_to: Option<String>,
    correlation_id: Option<String>,
    dialect: Dialect,
}

impl ReplyRoute {
    /// Forgets an address that is not of the form that requesters own.
    fn check(&mut self, address: &str) {
        if self
            .reply_to
            .as_deref()
            .is_some_and(|reply_to| !is_reply_address(reply_to))
        {
            tracing::warn!(
                address,
                "a request names a reply address that is none; it will not be answered"
            );
            self.reply_to = None;
        }
    }
}

fn is_reply_address(reply_to: &str) -> bool {
    let token = |text: &str, len, legal: fn(u8) -> bool| text.len() == len && text.bytes().all(legal);
    match (
        reply_to.strip_prefix("commlib:reply:"),
        reply_to.strip_prefix("rpc-"),
    ) {
        (Some(id), _) => token(id, 24, |byte| {
            byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
        }),
        (_, Some(id)) => token(id, 32, |byte| {
            byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
        }),
        (None, None) => false,
    }
}

struct MemoryResponder {
    bus: Arc<Bus>,
    addresses: Arc<[Address]>,
    index: usize,
    item: Option<Item>,
    permit: Option<OwnedSemaphorePermit>,
    reply: ReplyRoute,
}

impl Responder for MemoryResponder {
    fn wants_reply(&self) -> bool {
        self.reply.reply_to.is_some()
    }

    fn reply(mut self: Box<Self>, mut reply: Envelope) {
        self.item = None;
        if let Some(reply_to) = &self.reply.reply_to {
            let correlation_id = self.reply.correlation_id.as_deref();
            let bytes = match self.reply.dialect {
                Dialect::Native => {
                    reply.meta.correlation_id = correlation_id.map(str::to_owned);
                    native::encode(&reply, None)
                }
                Dialect::CommlibPy => commlib_py::encode_reply(&reply, correlation_id),
            };
            self.bus
                .answer(reply_to, correlation_id.unwrap_or_default(), bytes.into());
        }
    }

    fn finish(mut self: Box<Self>) {
        self.item = None;
    }

    fn give_back(self: Box<Self>) {}
}

impl Drop for MemoryResponder {
    fn drop(&mut self) {
        let (before, from) = self.addresses.split_at(self.index);
        if let (Some(item), Some(address)) = (self.item.take(), from.first()) {
            self.bus.give_back(address.as_str(), item);
        }
        self.permit = None;
        // The next address first, so that none of them starves.
        for address in from.iter().skip(1).chain(before).chain(from.first()) {
            self.bus.pump(address.as_str());
        }
    }
}

struct Memory {
    bus: Arc<Bus>,
    reply_to: String,
    max_body: usize,
    state: watch::Sender<ConnectionState>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("reply_to", &self.reply_to)
            .finish_non_exhaustive()
    }
}

impl Memory {
    fn check_open(&self) -> Result<(), TransportError> {
        if *self.state.borrow() == ConnectionState::Closed {
            Err(TransportError::closed())
        } else {
            Ok(())
        }
    }

    fn push(&self, request: &Request, reply_to: Option<&str>) -> Result<(), TransportError> {
        self.check_open()?;
        let bytes = native::encode(&request.message, reply_to);
        self.bus
            .push(request.address.as_str(), bytes.into(), Some(request.time_to_live))
    }
}

impl Transport for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            no_responders: true,
            groups: true,
            give_back: true,
            expires: true,
        }
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>> {
        let inbox = Inbox::Node {
            sink,
            max_body: self.max_body,
        };
        self.bus.state.lock().inboxes.insert(self.reply_to.clone(), inbox);
        async { self.check_open() }.boxed()
    }

    fn request(&self, request: Request) -> Result<(), TransportError> {
        self.push(&request, Some(&self.reply_to))
    }

    fn forget(&self, _: &str) -> bool {
        false
    }

    fn send(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        async move { self.push(&request, None).map(|()| Accepted::default()) }.boxed()
    }

    fn publish(
        &self,
        address: Address,
        message: Envelope,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        async move {
            self.check_open()?;
            let receivers = self
                .bus
                .broadcast(address.as_str(), &native::encode(&message, None).into());
            Ok(Accepted {
                durable: false,
                receivers: Some(receivers),
            })
        }
        .boxed()
    }

    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>> {
        async move {
            self.check_open()?;
            let id = self.bus.next_id();
            let addresses: Arc<[Address]> = spec.addresses.clone().into();
            let mut state = self.bus.state.lock();
            for (index, address) in spec.addresses.iter().enumerate() {
                state
                    .queues
                    .entry(address.as_str().to_owned())
                    .or_default()
                    .consumers
                    .push_back(Arc::new(QueueConsumer {
                        id,
                        index,
                        addresses: Arc::clone(&addresses),
                        permits: Arc::clone(&spec.permits),
                        max_body: spec.max_body,
                        sink: Arc::clone(&spec.sink),
                    }));
            }
            drop(state);
            Ok(Box::new(Registration {
                bus: Arc::clone(&self.bus),
                id,
                member: None,
            }) as Box<dyn Consumer>)
        }
        .boxed()
    }

    fn subscribe(&self, spec: SubscribeSpec) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        async move {
            self.check_open()?;
            let id = self.bus.next_id();
            let key = spec
                .group
                .as_ref()
                .map(|group| (group.name.clone(), spec.pattern.as_str().to_owned()));
            let subscriber = Arc::new(Subscriber {
                id,
                pattern: spec.pattern,
                max_body: spec.max_body,
                sink: spec.sink,
            });
            let mut state = self.bus.state.lock();
            let mut member = None;
            match (key, spec.group) {
                (Some(key), Some(group)) => {
                    let queue = state.groups.entry(key).or_insert_with(|| GroupQueue {
                        pattern: subscriber.pattern.clone(),
                        members: Vec::new(),
                        items: Arc::default(),
                    });
                    queue.members.push(Arc::clone(&subscriber));
                    member = Some(tokio::spawn(take_part(
                        subscriber,
                        group.permits,
                        Arc::clone(&queue.items),
                    )));
                }
                _ => state.subscriptions.push(subscriber),
            }
            drop(state);
            Ok(Box::new(Registration {
                bus: Arc::clone(&self.bus),
                id,
                member,
            }) as Box<dyn Subscription>)
        }
        .boxed()
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            self.state.send_replace(ConnectionState::Closed);
            self.bus.state.lock().inboxes.remove(&self.reply_to);
            Ok(())
        }
        .boxed()
    }
}

/// Takes messages of a group for one member. It ends between messages only: nothing taken is lost.
async fn take_part(member: Arc<Subscriber>, permits: Arc<Semaphore>, items: Arc<GroupItems>) {
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (address, bytes) = items.next().await;
        member.deliver(&address, native::decode_topic(&bytes), Some(permit));
    }
}

/// A consumer or a subscription, by its id.
struct Registration {
    bus: Arc<Bus>,
    id: u64,
    member: Option<tokio::task::JoinHandle<()>>,
}

impl Registration {
    fn end(&self) {
        if let Some(member) = &self.member {
            member.abort();
        }
        let mut state = self.bus.state.lock();
        state.subscriptions.retain(|subscriber| subscriber.id != self.id);
        state.groups.retain(|_, group| {
            group.members.retain(|member| member.id != self.id);
            !group.members.is_empty()
        });
        drop(state);
        self.bus.remove_consumer(self.id);
    }
}

impl Consumer for Registration {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async { self.end() }.boxed()
    }
}

impl Subscription for Registration {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async { self.end() }.boxed()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}
