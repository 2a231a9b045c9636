//! Listens to topics: each subscription has its own channel and its own queue, or shares the queue of its group.
//!
//! A subscription's own queue is exclusive and has a new name in every generation, because after a break the broker may
//! still hold the old one for the connection that it has not yet missed. It is consumed without acknowledgements and
//! emptied into the sink at once; what waits for a slow reader waits there, within bounds.
//!
//! A group's queue is consumed with acknowledgements and as many messages at once as there are permits; each is
//! acknowledged when its permit is released. So a member that dies gives back what it had.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer as Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::{Acks, Unsettled};
use super::errors::bounded;
use super::linger::linger;
use super::properties::{name, read_topic, short};
use super::rebuild::{Kept, Rebuild};
use super::supervisor::Link;
use super::{Alive, Core, Started, TOPICS, random_name};
use crate::limits::too_large;
use crate::transport::{SubscribeSpec, Subscription, TopicMessage, TransportError, TransportErrorKind};

/// Messages that may wait at the broker; the oldest are dropped.
const QUEUE_LENGTH: i32 = 10_000;
/// How long a group's queue lives without members, in ms; in normal operation it goes with the last of them.
const GROUP_EXPIRES: i32 = 60_000;

struct Handle {
    stop: CancellationToken,
    stopped: CancellationToken,
    _guard: DropGuard,
    _alive: Arc<Alive>,
}

impl Subscription for Handle {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(self.stopped.cancelled())
    }
}

/// Starts listening; resolves when the queue is bound and consumed.
pub(super) async fn subscribe(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    spec: SubscribeSpec,
) -> Result<Box<dyn Subscription>, TransportError> {
    core.consuming.start();
    let stop = core.closing.child_token();
    let guard = stop.clone().drop_guard();
    let stopped = CancellationToken::new();
    let (started, ready) = core.beginning();
    let task = Task {
        core: Arc::clone(core),
        spec,
        stop: stop.clone(),
    };
    let ended = stopped.clone().drop_guard();
    core.tasks.spawn(
        async move {
            task.run(started).await;
            drop(ended);
        }
        .boxed(),
    );
    core.begun("subscribing", ready).await?;
    Ok(Box::new(Handle {
        stop,
        stopped,
        _guard: guard,
        _alive: alive,
    }))
}

/// What came to an end.
enum End {
    Stopped,
    Gone(Option<lapin::Error>),
}

struct Task {
    core: Arc<Core>,
    spec: SubscribeSpec,
    stop: CancellationToken,
}

impl Task {
    async fn run(self, mut started: Option<Started>) {
        // A queue of its own goes with its connection, and what is in it too.
        let kept = match self.spec.group {
            Some(_) => Kept::AtTheBroker,
            None => Kept::Nowhere,
        };
        let mut rebuild = Rebuild::new(self.spec.pattern.as_str(), &self.core, kept);
        loop {
            let link = tokio::select! {
                link = rebuild.next_link() => link,
                () = self.stop.cancelled() => None,
            };
            let Some(link) = link else { return };
            let built = tokio::select! {
                built = self.build(&link) => built,
                () = self.stop.cancelled() => return,
            };
            match built {
                Ok((channel, incoming)) => {
                    match started.take() {
                        Some(started) => {
                            if started.send(Ok(())).is_err() {
                                return;
                            }
                        }
                        // From here on nothing is missed; what came before is.
                        None => self.spec.sink.gap(),
                    }
                    let end = match &self.spec.group {
                        None => self.listen(&channel, incoming, &mut rebuild).await,
                        Some(_) => self.share(&link, &channel, incoming, &mut rebuild).await,
                    };
                    linger(channel);
                    match end {
                        End::Stopped => return,
                        End::Gone(error) => rebuild.ended(error.as_ref()),
                    }
                }
                Err(error) => {
                    if started.as_ref().is_some_and(oneshot::Sender::is_closed) {
                        return;
                    }
                    if matches!(
                        error.kind,
                        TransportErrorKind::Conflict | TransportErrorKind::Forbidden
                    ) && let Some(started) = started.take()
                    {
                        let _ = started.send(Err(error));
                        return;
                    }
                    rebuild.failed(&error, &link);
                }
            }
            tokio::select! {
                () = rebuild.pause() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn build(&self, link: &Link) -> Result<(Channel, Incoming), TransportError> {
        let limit = self.core.options.operation_timeout;
        let pattern = self.spec.pattern.as_str();
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
                // The characters of wildcards are no part of addresses, nor are these.
                let pattern = pattern.replace('*', "+").replace('#', "++");
                (format!("commlib.group.{}.{pattern}", group.name), true)
            }
        };
        let queue = short("name of the group's queue", &queue)?;
        let channel = link.channel().await?;
        if let Some(group) = &self.spec.group {
            let prefetch = u16::try_from(group.concurrency.max(1)).unwrap_or(u16::MAX);
            let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
            bounded("limiting what is taken", limit, qos).await?;
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
        let what = format!("binding a queue to `{pattern}`");
        let bind = channel.queue_bind(
            queue.clone(),
            name(TOPICS),
            short("pattern", pattern)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bounded(&what, limit, bind).await?;
        let what = format!("consuming the queue `{queue}`");
        let options = BasicConsumeOptions {
            no_ack: self.spec.group.is_none(),
            ..BasicConsumeOptions::default()
        };
        let consume = channel.basic_consume(queue, name(""), options, FieldTable::default());
        let incoming = bounded(&what, limit, consume).await?;
        Ok((channel, incoming))
    }

    /// Empties a queue of its own.
    async fn listen(&self, channel: &Channel, mut incoming: Incoming, rebuild: &mut Rebuild) -> End {
        loop {
            tokio::task::coop::consume_budget().await;
            let message = tokio::select! {
                message = incoming.next() => message,
                () = self.stop.cancelled() => {
                    self.cancel(channel, &incoming).await;
                    return End::Stopped;
                }
            };
            match message {
                Some(Ok(message)) => {
                    rebuild.good();
                    self.deliver(message, None);
                }
                Some(Err(error)) => return End::Gone(Some(error)),
                None => return End::Gone(None),
            }
        }
    }

    /// Takes from the queue of a group, a permit for each.
    async fn share(
        &self,
        link: &Arc<Link>,
        channel: &Channel,
        mut incoming: Incoming,
        rebuild: &mut Rebuild,
    ) -> End {
        let Some(group) = &self.spec.group else {
            return End::Stopped;
        };
        let acks = Acks::new(channel.clone());
        let mut handling = FuturesUnordered::new();
        let mut unsettled = HashMap::new();
        let end = loop {
            tokio::task::coop::consume_budget().await;
            let message = tokio::select! {
                Some(tag) = handling.next(), if !handling.is_empty() => {
                    settle(&mut unsettled, tag);
                    continue;
                }
                message = incoming.next() => message,
                () = self.stop.cancelled() => break End::Stopped,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => break End::Gone(Some(error)),
                None => break End::Gone(None),
            };
            rebuild.good();
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
            if message.acker.poisoned() {
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
            self.deliver(message, Some(pass));
        };
        if matches!(end, End::Stopped) {
            self.cancel(channel, &incoming).await;
            while let Some(Ok(message)) = incoming.next().await {
                drop(Unsettled::new(&acks, message.delivery_tag));
            }
            link.close_channel(channel.clone(), acks.settled());
        }
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

    async fn cancel(&self, channel: &Channel, incoming: &Incoming) {
        let cancel = channel.basic_cancel(incoming.tag(), BasicCancelOptions::default());
        let _ = tokio::time::timeout(self.core.options.operation_timeout, cancel).await;
    }

    fn deliver(&self, message: Message, permit: Option<OwnedSemaphorePermit>) {
        let address = message.routing_key.as_str();
        if !self.spec.pattern.matches(address) {
            return;
        }
        if message.data.len() > self.spec.max_body {
            let reason = too_large("it", message.data.len(), self.spec.max_body);
            return self.spec.sink.dropped(&reason);
        }
        let address = address.to_owned();
        match read_topic(&message.properties, Bytes::from(message.data)) {
            Ok(message) => self.spec.sink.message(TopicMessage {
                address,
                message,
                permit,
                tracked: None,
            }),
            Err(malformed) => self.spec.sink.dropped(&malformed.reason),
        }
    }
}

/// A message was handled.
fn settle(unsettled: &mut HashMap<u64, (Unsettled, OwnedSemaphorePermit)>, tag: u64) {
    if let Some((delivery, _permit)) = unsettled.remove(&tag) {
        delivery.acknowledge();
    }
}
