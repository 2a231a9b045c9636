//! Listens to topics: each subscription has its own channel and its own queue, or shares the queue of its group.
//!
//! A subscription's own queue is exclusive and has a new name in every generation, because after a break the broker may
//! still hold the old one for the connection that it has not yet missed. It is consumed without acknowledgements and
//! emptied into the sink at once, by the task of the connection; what waits for a slow reader waits there, within bounds.
//!
//! A group's queue is consumed with acknowledgements and as many messages at once as there are permits; each is
//! acknowledged when its permit is released. So a member that dies gives back what it had.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::acks::{Acks, Unsettled};
use super::errors::bounded;
use super::properties::{name, read_topic, short};
use super::rebuild::Rebuild;
use super::session::{self, End, Taker};
use super::supervisor::Link;
use super::wire::{Channel, Consume, Consuming, Incoming, Message};
use super::{Alive, Core, durable, random_name};
use crate::limits::too_large;
use crate::transport::{Group, SubscribeSpec, Subscription, TopicMessage, TransportError};

/// Messages that may wait at the broker; the oldest are dropped.
const QUEUE_LENGTH: i32 = 10_000;
/// How long a group's queue lives without members, in ms; in normal operation it goes with the last of them.
const GROUP_EXPIRES: i32 = 60_000;

/// Starts listening; resolves when the queue is bound and consumed.
pub(super) async fn subscribe(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    spec: SubscribeSpec,
) -> Result<Box<dyn Subscription>, TransportError> {
    let rebuild = Rebuild::new(spec.pattern.as_str(), core);
    let listener = |stop| Listener {
        core: Arc::clone(core),
        spec,
        stop,
    };
    Ok(session::begin(core, alive, "subscribing", rebuild, listener).await?)
}

struct Listener {
    core: Arc<Core>,
    spec: SubscribeSpec,
    stop: CancellationToken,
}

/// What is consumed.
enum Session {
    Own {
        channel: Channel,
        consuming: Consuming,
        gate: Arc<Gate>,
    },
    Shared {
        channel: Channel,
        incoming: Incoming,
    },
}

/// Holds messages until they may be given to the sink.
struct Gate {
    spec: SubscribeSpec,
    /// `None` when it is open.
    held: Mutex<Option<Vec<Message>>>,
}

impl Gate {
    fn new(spec: &SubscribeSpec) -> Arc<Self> {
        Arc::new(Self {
            spec: spec.clone(),
            held: Mutex::new(Some(Vec::new())),
        })
    }

    fn pass(&self, message: Message) {
        match &mut *self.held.lock() {
            Some(held) => held.push(message),
            None => deliver(&self.spec, message, None),
        }
    }

    fn open(&self) {
        let mut held = self.held.lock();
        for message in held.take().into_iter().flatten() {
            deliver(&self.spec, message, None);
        }
    }
}

impl Taker for Listener {
    type Session = Session;

    async fn build(&self, link: &Link) -> Result<Self::Session, TransportError> {
        let limit = self.core.options.operation_timeout;
        let mut arguments = FieldTable::default();
        arguments.insert(name("x-max-length"), AMQPValue::LongInt(QUEUE_LENGTH));
        arguments.insert(name("x-overflow"), AMQPValue::LongString("drop-head".into()));
        let (queue, durable) = match &self.spec.group {
            None => {
                let node = &self.core.options.node_id;
                let queue = format!("commlib.sub.{node}.{}.{}", link.generation, random_name());
                (queue, false)
            }
            Some(group) => {
                arguments.insert(name("x-expires"), AMQPValue::LongInt(GROUP_EXPIRES));
                let place = durable::place(&group.name, &self.spec.pattern);
                (format!("commlib.group.{place}"), true)
            }
        };
        let queue = short("name of the group's queue", &queue)?;
        let channel = link.channel().await?;
        if let Some(group) = &self.spec.group {
            session::limit_taken(&channel, group.concurrency, limit).await?;
        }
        let options = QueueDeclareOptions {
            durable,
            exclusive: !durable,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let what = format!("declaring the queue `{queue}`");
        let declare = channel.queue_declare(queue.clone(), options, arguments);
        bounded(&what, limit, declare).await?;
        session::bind(&channel, &queue, &self.spec.pattern, limit).await?;
        let consume = Consume {
            queue: &queue,
            no_ack: self.spec.group.is_none(),
            max_body: self.spec.max_body,
            limit,
        };
        if self.spec.group.is_some() {
            let incoming = channel.incoming(consume).await?;
            return Ok(Session::Shared { channel, incoming });
        }
        let gate = Gate::new(&self.spec);
        let pass = {
            let gate = Arc::clone(&gate);
            move |message| gate.pass(message)
        };
        let consuming = channel.consume(consume, pass).await?;
        Ok(Session::Own {
            channel,
            consuming,
            gate,
        })
    }

    fn is_back(&self) {
        // From here on nothing is missed; what came before is.
        self.spec.sink.gap();
    }

    async fn take(&self, session: Session, link: &Arc<Link>) -> End {
        match (session, &self.spec.group) {
            (Session::Shared { channel, incoming }, Some(group)) => {
                self.share(group, link, channel, incoming).await
            }
            (Session::Shared { .. }, None) => End::Stopped,
            (
                Session::Own {
                    channel,
                    consuming,
                    gate,
                },
                _,
            ) => {
                // What was missed was told of before.
                gate.open();
                self.listen(channel, consuming).await
            }
        }
    }
}

impl Listener {
    /// Has a queue of its own emptied.
    async fn listen(&self, channel: Channel, mut consuming: Consuming) -> End {
        if let Some(reason) = self.stop.run_until_cancelled(consuming.ended()).await {
            return End::Gone(reason);
        }
        session::cancel(&channel, consuming.tag(), self.core.options.operation_timeout).await;
        End::Stopped
    }

    /// Takes from the queue of a group, a permit for each.
    async fn share(&self, group: &Group, link: &Arc<Link>, channel: Channel, mut incoming: Incoming) -> End {
        let acks = Acks::new(channel);
        let mut handling = FuturesUnordered::new();
        let mut unsettled = HashMap::new();
        let end = loop {
            let message = tokio::select! {
                Some(tag) = handling.next(), if !handling.is_empty() => {
                    settle(&mut unsettled, tag);
                    continue;
                }
                message = session::next(&mut incoming, &self.stop) => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(end) => break end,
            };
            let given = Unsettled::new(&acks, message.delivery_tag);
            let mut permit = std::pin::pin!(Arc::clone(&group.permits).acquire_owned());
            let permit = loop {
                tokio::select! {
                    permit = &mut permit => break permit.ok(),
                    Some(tag) = handling.next(), if !handling.is_empty() => settle(&mut unsettled, tag),
                    () = self.stop.cancelled() => break None,
                }
            };
            let Some(permit) = permit else { break End::Stopped };
            if acks.is_gone() {
                continue;
            }
            // The message carries a permit of a gate of its own: when that comes back, the message was handled.
            let gate = Arc::new(Semaphore::new(1));
            let Ok(pass) = Arc::clone(&gate).try_acquire_owned() else {
                continue;
            };
            let tag = message.delivery_tag;
            unsettled.insert(tag, (given, permit));
            handling.push(async move {
                let _ = gate.acquire_owned().await;
                tag
            });
            deliver(&self.spec, message, Some(pass));
        };
        session::let_go(link, &acks, incoming, &end, self.core.options.operation_timeout).await;
        // What was delivered keeps its permit, and is acknowledged, whatever becomes of the subscription.
        self.core.tasks.spawn(
            async move {
                while let Some(tag) = handling.next().await {
                    settle(&mut unsettled, tag);
                }
            }
            .boxed(),
        );
        end
    }
}

fn deliver(spec: &SubscribeSpec, message: Message, permit: Option<OwnedSemaphorePermit>) {
    let address = message.routing_key;
    if !spec.pattern.matches(&address) {
        return;
    }
    if message.size > spec.max_body {
        let reason = too_large("it", message.size, spec.max_body);
        return spec.sink.dropped(&reason);
    }
    if let Some(reason) = message.malformed {
        return spec.sink.dropped(reason);
    }
    match read_topic(&message.properties, message.data) {
        Ok(message) => spec.sink.message(TopicMessage {
            address,
            message,
            permit,
            tracked: None,
        }),
        Err(malformed) => spec.sink.dropped(&malformed.reason),
    }
}

/// A message was handled.
fn settle(unsettled: &mut HashMap<u64, (Unsettled, OwnedSemaphorePermit)>, tag: u64) {
    if let Some((delivery, _permit)) = unsettled.remove(&tag) {
        delivery.acknowledge();
    }
}
