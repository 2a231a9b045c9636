//! The in-process bus: the reference model of the transport contract.
//!
//! It moves the same bytes as a broker without headers would see, keeps several buses by name, and does its work in
//! the task that sends; only members of groups have a task of their own.

mod bus;
mod responder;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use self::bus::{GroupItems, GroupQueue, Inbox, QueueConsumer, Subscriber};
use super::{
    Accepted, BrokerUrl, Capabilities, ConnectionState, ConsumeSpec, Consumer, ReplySink, Request,
    SubscribeSpec, Subscription, Transport, TransportError, TransportOptions,
};
use crate::address::Address;
use crate::envelope::{Envelope, native};

pub use self::bus::Bus;

/// Connects to the bus that the URL names, which exists as long as somebody is connected to it.
pub(super) fn connect(url: &BrokerUrl, options: &TransportOptions) -> Arc<dyn Transport> {
    Arc::new(Memory {
        bus: Bus::named(url.host()),
        reply_to: format!("commlib:reply:{}", options.node_id),
        max_body: options.max_body,
        state: watch::Sender::new(ConnectionState::Connected { generation: 1 }),
    })
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
