//! The in-process bus: the reference model of the transport contract.
//!
//! It moves the same bytes as a broker without headers would see, keeps several buses by name, and does its work in
//! the task that sends; only members of groups have a task of their own.

mod bus;
mod durable;
mod faults;
mod faulty;
mod items;
mod queue;
mod responder;
mod topics;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::bus::Inbox;
use self::durable::Queue;
use self::faulty::Faulty;
use self::queue::{Content, Requester};
use self::topics::{Audience, Subscriber, take_part};
use super::{
    Accepted, BrokerUrl, Capabilities, Claim, Claimed, ConnectionState, ConsumeSpec, Consumer, DeadLetter,
    Disposal, Durability, PublishOptions, Published, Removal, ReplySink, Request, SubscribeSpec,
    Subscription, Transport, TransportError, TransportOptions,
};
use crate::address::{Address, Pattern};
use crate::envelope::Envelope;
use crate::limits::Limits;

pub use self::bus::Bus;
pub use self::faults::MemoryFaults;

/// Connects to the bus that the URL names, which exists as long as somebody is connected to it.
pub(super) fn connect(url: &BrokerUrl, options: &TransportOptions) -> Arc<dyn Transport> {
    let bus = Bus::named(url.host());
    let weather = bus.weather();
    let memory = Arc::new(Memory {
        bus,
        reply_to: format!("commlib:reply:{}", options.node_id),
        limits: options.limits.clone(),
        requester: OnceLock::new(),
        closed: AtomicBool::new(false),
        state: watch::Sender::new(ConnectionState::Connected { generation: 1 }),
    });
    match weather {
        Some(weather) => Arc::new(Faulty::new(memory, weather, options.operation_timeout)),
        None => memory,
    }
}

struct Memory {
    bus: Arc<Bus>,
    reply_to: String,
    limits: Limits,
    /// Who takes the replies, once there is somebody.
    requester: OnceLock<Requester>,
    closed: AtomicBool,
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
        if self.closed.load(Ordering::Acquire) {
            Err(TransportError::closed())
        } else {
            Ok(())
        }
    }

    fn broadcast(&self, audience: &Audience<'_>, message: Envelope) -> Accepted {
        Accepted {
            durability: Durability::None,
            receivers: Some(self.bus.topics.broadcast(audience, Ok(message))),
            ..Accepted::default()
        }
    }

    fn push(&self, request: Request, requester: Option<Requester>) -> Result<Accepted, TransportError> {
        self.check_open()?;
        let Request {
            address,
            message,
            time_to_live,
            durable,
        } = request;
        if durable {
            return self.bus.keep_request(&address, message, requester);
        }
        let content = Content::Message(message, requester);
        self.bus
            .queues
            .push(address.as_str(), content, Some(time_to_live))
            .map(|()| Accepted::default())
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
            reconnects: false,
        }
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>> {
        let max_body = self.limits.body_in;
        let requester = self.requester.get_or_init(|| Requester { sink, max_body });
        let inbox = Inbox::Node(requester.clone());
        self.bus.inboxes.lock().insert(self.reply_to.clone(), inbox);
        async { self.check_open() }.boxed()
    }

    fn request(&self, request: Request) -> Result<(), TransportError> {
        self.push(request, self.requester.get().cloned()).map(|_| ())
    }

    fn forget(&self, _: &str) -> bool {
        false
    }

    fn send(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        async move { self.push(request, None) }.boxed()
    }

    fn publish(
        &self,
        address: Address,
        message: Envelope,
        options: PublishOptions,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        async move {
            self.check_open()?;
            if options.durable.is_some() {
                return self.bus.publish_durable(address.as_str(), message);
            }
            let audience = self.bus.topics.audience(address.as_str());
            audience.catch_up().await;
            Ok(self.broadcast(&audience, message))
        }
        .boxed()
    }

    fn publish_now(&self, address: &Address, message: Envelope, options: &PublishOptions) -> Published {
        let audience = self.bus.topics.audience(address.as_str());
        if options.durable.is_some() || audience.is_behind() {
            return Published::Waits(message);
        }
        Published::Done(self.check_open().map(|()| self.broadcast(&audience, message)))
    }

    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>> {
        async move {
            self.check_open()?;
            let id = self.bus.next_id();
            self.bus.queues.consume(&self.bus, id, &spec);
            Ok(Box::new(Registration {
                bus: Arc::clone(&self.bus),
                id,
            }) as Box<dyn Consumer>)
        }
        .boxed()
    }

    fn subscribe(&self, spec: SubscribeSpec) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        async move {
            self.check_open()?;
            let id = self.bus.next_id();
            let subscriber = Arc::new(Subscriber {
                id,
                pattern: spec.pattern,
                max_body: spec.max_body,
                sink: spec.sink,
            });
            let (topics, bus) = (&self.bus.topics, Arc::clone(&self.bus));
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            match (spec.group, spec.durable) {
                (Some(group), Some(kept)) => {
                    let joined = if kept.requests {
                        Queue::join(&bus.request_queue(&kept.topic))
                    } else {
                        bus.join_group(&group.name, &subscriber.pattern, self.limits.backlog)
                    };
                    let dead = durable::Dead {
                        group: kept.dead_letters,
                        most: self.limits.dead_letters,
                    };
                    tasks.spawn(durable::take_part(
                        bus,
                        subscriber,
                        group.permits,
                        joined,
                        Arc::new(dead),
                        stop.clone(),
                    ));
                }
                (Some(group), None) => {
                    let items = topics.join(group.name, Arc::clone(&subscriber));
                    tasks.spawn(take_part(subscriber, group.permits, items, stop.clone()));
                }
                (None, _) => topics.subscribe(subscriber),
            }
            tasks.close();
            let registration = Registration {
                bus: Arc::clone(&self.bus),
                id,
            };
            Ok(Box::new(Membership {
                registration,
                stop,
                tasks,
            }) as Box<dyn Subscription>)
        }
        .boxed()
    }

    fn dead_letters(
        &self,
        group: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeadLetter>, TransportError>> {
        let letters = self.bus.dead_letters(group, limit);
        async move { self.check_open().map(|()| letters) }.boxed()
    }

    fn dispose(
        &self,
        group: &str,
        id: &str,
        disposal: Disposal,
    ) -> BoxFuture<'_, Result<bool, TransportError>> {
        let disposed = self.check_open().map(|()| self.bus.dispose(group, id, disposal));
        async move { disposed }.boxed()
    }

    fn remove_group(
        &self,
        _: &Pattern,
        group: &str,
        pattern: &Pattern,
    ) -> BoxFuture<'_, Result<Removal, TransportError>> {
        let removed = self.check_open().map(|()| self.bus.remove_group(group, pattern));
        async move { removed }.boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, TransportError>> {
        let claimed = self.check_open().map(|()| self.bus.claims.claim(claim));
        async move { claimed }.boxed()
    }

    fn conclude(&self, claim: Claim, answer: Option<Envelope>) -> BoxFuture<'_, Result<(), TransportError>> {
        self.bus.claims.conclude(claim, answer);
        async { Ok(()) }.boxed()
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            self.closed.store(true, Ordering::Release);
            self.state.send_replace(ConnectionState::Closed);
            self.bus.inboxes.lock().remove(&self.reply_to);
            Ok(())
        }
        .boxed()
    }
}

/// A consumer or a subscription, by its id.
struct Registration {
    bus: Arc<Bus>,
    id: u64,
}

impl Registration {
    fn end(&self) {
        self.bus.topics.remove(self.id);
        self.bus.queues.remove_consumer(self.id);
    }
}

impl Consumer for Registration {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async { self.end() }.boxed()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

/// A subscription, and the task of one that is a member of a group.
struct Membership {
    registration: Registration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Subscription for Membership {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async {
            self.stop.cancel();
            self.registration.end();
            // What a member has taken by now is delivered.
            self.tasks.wait().await;
        }
        .boxed()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
