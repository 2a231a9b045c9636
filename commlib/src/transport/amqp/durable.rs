//! Durable topics: a queue for each group and pattern, which stays at the broker.
//!
//! It is a classic queue: after a crash of a broker that is alone it is there at once, where a quorum queue was seen to
//! have no leader for longer than publishers wait. Those don't count deliveries, so a message that comes a second time
//! goes through the queue once more, with the count in its headers. One whose handler failed rests in a queue of its
//! delay and comes back from there by itself; one that is given up goes to the [dead letters](super::durable_letters)
//! of its group. All of these are published and confirmed before the broker hears that the group is done with the
//! delivery, so a crash in between gives a second copy, never none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer as Incoming};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::{Acks, Unsettled};
use super::durable_letters;
use super::errors::{self, bounded};
use super::kept;
use super::linger::linger;
use super::properties::{self, Question, name, read_request, read_topic, short};
use super::rebuild::{Kept, Rebuild};
use super::responder::Answer;
use super::supervisor::Link;
use super::{Alive, Core, Started, TOPICS, random_name};
use crate::address::{Address, Pattern};
use crate::envelope::Envelope;
use crate::error::{Execution, StatusCode};
use crate::limits::too_large;
use crate::transport::durable::refusal;
use crate::transport::{
    Accepted, Durability, DurableSpec, Group, Removal, Settle, SubscribeSpec, Subscription, Taken,
    TopicMessage, Tracked, TransportError, TransportErrorKind,
};

/// The queues of groups begin so.
pub(super) const GROUP_QUEUE: &str = "commlib.durable.";
/// Requests that wait for the servers of a durable method; more are refused.
pub(super) const REQUESTS_LENGTH: i32 = 100_000;
/// Messages that rest for the same time.
const RESTING_LENGTH: i32 = 10_000;
/// A queue for resting messages goes when nothing was put to rest for this long after the last has left, in ms.
const RETRY_EXPIRES: u128 = 60_000;

/// The address of a message that did not come from the exchange of topics.
pub(super) const ADDRESS: &str = "commlib-address";
/// How often it was delivered before it came to rest.
const ATTEMPTS: &str = "commlib-attempts";
/// Its id. The property has one of our own meanwhile, by which the broker's returns are told apart.
const MESSAGE_ID: &str = "commlib-message-id";

/// Publishes to the groups of a durable topic and to whoever listens.
pub(super) async fn publish(
    core: &Core,
    address: &Address,
    message: &Envelope,
) -> Result<Accepted, TransportError> {
    let key = short("address", address.as_str())?;
    let id = message.meta.id.clone().unwrap_or_else(random_name);
    let (properties, body) = properties::topic(message)?;
    let properties = properties
        .with_delivery_mode(2)
        .with_message_id(short("id", &id)?);
    let published = core
        .durable
        .publish(name(TOPICS), key, (properties, body), Some(id));
    let durability = match published.await {
        Ok(_) => Durability::BrokerDisk,
        // There is no queue for it: nobody listens, and no group is kept for it yet.
        Err(error) if error.kind == TransportErrorKind::NoResponders => Durability::None,
        Err(error) => return Err(error),
    };
    Ok(Accepted {
        durability,
        receivers: None,
        ..Accepted::default()
    })
}

/// A group and its pattern.
fn place(group: &str, pattern: &Pattern) -> String {
    // The characters of wildcards are no part of addresses, nor are these.
    let pattern = pattern.as_str().replace('*', "+").replace('#', "++");
    format!("{group}.{pattern}")
}

/// The queue of a group.
fn queue(place: &str) -> Result<ShortString, TransportError> {
    short("name of the group's queue", &format!("{GROUP_QUEUE}{place}"))
}

/// Removes a group's queue, unless somebody takes from it.
pub(super) async fn remove(core: &Core, group: &str, pattern: &Pattern) -> Result<Removal, TransportError> {
    let queue = queue(&place(group, pattern))?;
    let limit = core.options.operation_timeout;
    let link = core.link().await?;
    let look = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    // Deleting does not tell whether there was one. A refusal closes the channel.
    let channel = link.channel().await?;
    let there = channel.queue_declare(queue.clone(), look, FieldTable::default());
    match tokio::time::timeout(limit, there).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if errors::code(&error) == Some(404) => return Ok(Removal::NotThere),
        Ok(Err(error)) => {
            return Err(errors::operation(
                "looking for a group",
                &error,
                Execution::DidNotRun,
            ));
        }
        Err(_) => {
            return Err(errors::timeout(
                "looking for a group",
                limit,
                Execution::DidNotRun,
            ));
        }
    }
    let unused = QueueDeleteOptions {
        if_unused: true,
        ..QueueDeleteOptions::default()
    };
    let what = format!("deleting the queue `{queue}`");
    match tokio::time::timeout(limit, channel.queue_delete(queue, unused)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if errors::code(&error) == Some(406) => return Ok(Removal::InUse),
        Ok(Err(error)) => return Err(errors::operation(&what, &error, Execution::MayHaveRun)),
        Err(_) => return Err(errors::timeout(&what, limit, Execution::MayHaveRun)),
    }
    if let Err(error) = bounded("closing a channel", limit, channel.close(200, name("done"))).await {
        tracing::debug!(%error, "a channel was not closed");
    }
    Ok(Removal::Removed)
}

/// Takes from a group's queue until the handle is stopped or dropped; resolves when the queue is there and consumed.
pub(super) async fn join(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    spec: SubscribeSpec,
    group: Group,
    durable: &DurableSpec,
) -> Result<Box<dyn Subscription>, TransportError> {
    core.consuming.start();
    let place = place(&group.name, &spec.pattern);
    let place = Place {
        core: Arc::clone(core),
        queue: if durable.requests {
            kept::queue(spec.pattern.as_str())?
        } else {
            queue(&place)?
        },
        requests: durable.requests,
        letters: durable_letters::queue(&durable.dead_letters)?,
        place,
    };
    let stop = core.closing.child_token();
    let guard = stop.clone().drop_guard();
    let stopped = CancellationToken::new();
    let (started, ready) = core.beginning();
    let task = Task {
        core: Arc::clone(core),
        place: Arc::new(place),
        spec,
        group,
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
    Ok(Box::new(Membership {
        stop,
        stopped,
        _guard: guard,
        _alive: alive,
    }))
}

struct Membership {
    stop: CancellationToken,
    stopped: CancellationToken,
    _guard: DropGuard,
    _alive: Arc<Alive>,
}

impl Subscription for Membership {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(self.stopped.cancelled())
    }
}

/// What came to an end.
enum End {
    Stopped,
    Gone(Option<lapin::Error>),
}

struct Task {
    core: Arc<Core>,
    place: Arc<Place>,
    spec: SubscribeSpec,
    group: Group,
    stop: CancellationToken,
}

impl Task {
    async fn run(self, mut started: Option<Started>) {
        let mut rebuild = Rebuild::new(&self.place.place, &self.core, Kept::AtTheBroker);
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
                    if let Some(started) = started.take()
                        && started.send(Ok(())).is_err()
                    {
                        return;
                    }
                    let end = self.take(&link, &channel, incoming, &mut rebuild).await;
                    linger(channel);
                    match end {
                        End::Stopped => return,
                        End::Gone(error) => {
                            if error.is_none() {
                                // The queue was deleted, and what was in it is gone.
                                self.spec.sink.gap();
                            }
                            rebuild.ended(error.as_ref());
                        }
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
        let (queue, pattern) = (&self.place.queue, self.spec.pattern.as_str());
        let channel = link.channel().await?;
        let prefetch = u16::try_from(self.group.concurrency.max(1)).unwrap_or(u16::MAX);
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        bounded("limiting what is taken", limit, qos).await?;
        let arguments = FieldTable::default();
        let length = if self.place.requests {
            REQUESTS_LENGTH
        } else {
            i32::try_from(self.core.options.limits.backlog).unwrap_or(i32::MAX)
        };
        declare(&channel, limit, queue, "classic", length, arguments).await?;
        if !self.place.requests {
            let what = format!("binding the queue `{queue}` to `{pattern}`");
            let bind = channel.queue_bind(
                queue.clone(),
                name(TOPICS),
                short("pattern", pattern)?,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bounded(&what, limit, bind).await?;
        }
        let what = format!("consuming the queue `{queue}`");
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(queue.clone(), name(""), options, FieldTable::default());
        let incoming = bounded(&what, limit, consume).await?;
        Ok((channel, incoming))
    }

    /// Takes messages, a permit for each.
    async fn take(
        &self,
        link: &Arc<Link>,
        channel: &Channel,
        mut incoming: Incoming,
        rebuild: &mut Rebuild,
    ) -> End {
        let acks = Acks::new(channel.clone());
        let end = loop {
            tokio::task::coop::consume_budget().await;
            let message = tokio::select! {
                message = incoming.next() => message,
                () = self.stop.cancelled() => break End::Stopped,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return End::Gone(Some(error)),
                None => return End::Gone(None),
            };
            rebuild.good();
            let delivery = Unsettled::new(&acks, message.delivery_tag);
            let permit = tokio::select! {
                permit = Arc::clone(&self.group.permits).acquire_owned() => permit.ok(),
                () = self.stop.cancelled() => None,
            };
            let Some(permit) = permit else { break End::Stopped };
            // The channel went meanwhile, so the broker gives this one to somebody else.
            if message.acker.poisoned() {
                continue;
            }
            self.deliver(message, delivery, permit);
        };
        let cancel = channel.basic_cancel(incoming.tag(), BasicCancelOptions::default());
        let _ = tokio::time::timeout(self.core.options.operation_timeout, cancel).await;
        while let Some(Ok(message)) = incoming.next().await {
            drop(Unsettled::new(&acks, message.delivery_tag));
        }
        link.close_channel(channel.clone(), acks.settled());
        end
    }

    fn deliver(&self, message: Message, delivery: Unsettled, permit: tokio::sync::OwnedSemaphorePermit) {
        let Message {
            routing_key,
            exchange,
            redelivered,
            properties,
            data,
            ..
        } = message;
        let body = Bytes::from(data);
        // What the exchange of topics did not route has rested, or was sent again.
        let returned = exchange.as_str().is_empty();
        let address = returned
            .then(|| properties::text_header(&properties, ADDRESS))
            .flatten()
            .unwrap_or_else(|| routing_key.as_str().to_owned());
        let attempt = attempt(&properties, returned);
        let size = body.len();
        let mut question = None;
        let read = if !self.spec.pattern.matches(&address) {
            Err("its address is none of the group's".to_owned())
        } else if self.place.requests {
            let (taken, asked) = read_request(&properties, body.clone(), self.spec.max_body);
            let refused = asked.refused;
            question = asked.route.is_some().then_some(asked);
            read_kept(taken, refused, self.spec.max_body)
        } else if size > self.spec.max_body {
            Err(too_large("it", size, self.spec.max_body))
        } else {
            read_topic(&properties, body.clone()).map_err(|malformed| malformed.reason)
        };
        let id = properties::text_header(&properties, MESSAGE_ID).filter(|_| returned);
        let wants_answer = question.is_some();
        let mut settle = Box::new(Delivered {
            place: Arc::clone(&self.place),
            delivery,
            address: address.clone(),
            properties,
            body,
            attempt,
            question,
            answer: None,
        });
        match read {
            // It was with a member that did not settle it, which was an attempt.
            Ok(_) if redelivered => settle.count(),
            Ok(mut message) => {
                if id.is_some() {
                    message.meta.id = id;
                }
                self.spec.sink.message(TopicMessage {
                    address,
                    message,
                    permit: Some(permit),
                    tracked: Some(Tracked {
                        attempt,
                        wants_answer,
                        settle,
                    }),
                });
            }
            Err(reason) => {
                self.spec.sink.dropped(&reason);
                let code = if size > self.spec.max_body {
                    StatusCode::ResourceExhausted
                } else {
                    StatusCode::InvalidArgument
                };
                settle.answer(refusal(code, &reason));
                settle.dead(reason);
            }
        }
    }
}

/// A request as it was kept, or what is wrong with it.
fn read_kept(taken: Taken, refused: bool, limit: usize) -> Result<Envelope, String> {
    match taken {
        _ if refused => Err("it wants its answer at an address that is no reply address".to_owned()),
        Taken::Message(message) => Ok(message),
        Taken::Malformed(malformed) => Err(malformed.reason),
        Taken::TooLarge { size } => Err(too_large("it", size, limit)),
    }
}

/// How often a message was delivered, this time included, as far as its headers say.
fn attempt(properties: &BasicProperties, returned: bool) -> u32 {
    let before = properties::number_header(properties, ATTEMPTS).filter(|_| returned);
    let attempt = before.unwrap_or(0).saturating_add(1);
    u32::try_from(attempt).unwrap_or(u32::MAX)
}

/// Declares a durable queue that refuses what is too much.
pub(super) async fn declare(
    channel: &Channel,
    limit: Duration,
    queue: &ShortString,
    kind: &str,
    length: i32,
    mut arguments: FieldTable,
) -> Result<(), TransportError> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    arguments.insert(name("x-queue-type"), text(kind));
    arguments.insert(name("x-max-length"), AMQPValue::LongInt(length));
    arguments.insert(name("x-overflow"), text("reject-publish"));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let what = format!("declaring the queue `{queue}`");
    let declare = channel.queue_declare(queue.clone(), options, arguments);
    bounded(&what, limit, declare).await.map(|_| ())
}

/// A group and its queues.
pub(super) struct Place {
    core: Arc<Core>,
    /// The group and its pattern.
    place: String,
    pub(super) queue: ShortString,
    /// It is that of a durable method.
    requests: bool,
    pub(super) letters: ShortString,
}

impl Place {
    /// Puts a message to rest, from where it comes back after this time.
    async fn rest(&self, message: (BasicProperties, Bytes), after: Duration) -> Result<(), TransportError> {
        let ms = after.as_millis().clamp(1, 1 << 31);
        let queue = short(
            "name of the retry queue",
            &format!("commlib.retry.{ms}.{}", self.place),
        )?;
        let limit = self.core.options.operation_timeout;
        let number = |ms: u128| AMQPValue::LongLongInt(i64::try_from(ms).unwrap_or(i64::MAX));
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut arguments = FieldTable::default();
        arguments.insert(name("x-message-ttl"), number(ms));
        arguments.insert(name("x-expires"), number(ms.saturating_add(RETRY_EXPIRES)));
        arguments.insert(name("x-dead-letter-exchange"), text(""));
        arguments.insert(name("x-dead-letter-routing-key"), text(self.queue.as_str()));
        arguments.insert(name("x-dead-letter-strategy"), text("at-least-once"));
        let link = self.core.link().await?;
        let channel = link.channel().await?;
        // Of a quorum queue, because only that waits until the group's queue has what leaves it. Each time anew: the queue is not to expire before this message has left it.
        declare(&channel, limit, &queue, "quorum", RESTING_LENGTH, arguments).await?;
        let closing = channel.close(200, name("done"));
        let id = message.0.message_id().as_ref().map(ToString::to_string);
        let published = self.core.durable.publish(name(""), queue, message, id);
        let (closed, published) = tokio::join!(bounded("closing a channel", limit, closing), published);
        if let Err(error) = closed {
            tracing::debug!(%error, "a channel was not closed");
        }
        published.map(|_| ())
    }
}

/// A delivery of a durable topic. See [`Settle`].
struct Delivered {
    place: Arc<Place>,
    delivery: Unsettled,
    address: String,
    properties: BasicProperties,
    body: Bytes,
    attempt: u32,
    /// Of a request, who is to be answered, and the answer.
    question: Option<Question>,
    answer: Option<Envelope>,
}

/// Sends the answer to a request, with which the delivery is acknowledged if it is given; or gives the delivery back.
fn answered(
    place: &Place,
    question: Option<Question>,
    answer: Option<Envelope>,
    delivery: Option<Unsettled>,
) -> Option<Unsettled> {
    let (Some(question), Some(answer)) = (question, answer) else {
        return delivery;
    };
    let replies = if question.goes_to_queue() {
        &place.core.queue_replies
    } else {
        &place.core.replies
    };
    let way = Answer {
        delivery,
        permit: None,
        replies: Arc::clone(replies),
        question,
        patience: place.core.options.operation_timeout,
    };
    way.send(&answer);
    None
}

impl Delivered {
    /// The message as it goes to another queue.
    fn onward(
        &mut self,
        more: impl IntoIterator<Item = (&'static str, AMQPValue)>,
    ) -> (BasicProperties, Bytes) {
        let mut properties = std::mem::take(&mut self.properties);
        let mut headers = properties.headers().clone().unwrap_or_default();
        // The record of earlier rests would only grow, and copies would go wherever a peer said, with our rights.
        let old = [
            "CC",
            "BCC",
            "x-death",
            "x-first-death-exchange",
            "x-first-death-queue",
            "x-first-death-reason",
            "x-delivery-count",
        ];
        headers = headers
            .inner()
            .iter()
            .filter(|(key, _)| !old.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into();
        if !headers.inner().contains_key(MESSAGE_ID)
            && let Some(id) = properties.message_id()
        {
            headers.insert(name(MESSAGE_ID), AMQPValue::LongString(id.as_str().into()));
        }
        headers.insert(name(ADDRESS), AMQPValue::LongString(self.address.as_str().into()));
        headers.insert(name(ATTEMPTS), AMQPValue::LongLongInt(self.attempt.into()));
        for (key, value) in more {
            headers.insert(name(key), value);
        }
        properties = properties
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_message_id(name(&random_name()));
        (properties, self.body.clone())
    }
}

impl Delivered {
    /// Sends it through the group's queue once more, with one more attempt in its headers.
    fn count(mut self: Box<Self>) {
        let message = self.onward([]);
        let place = Arc::clone(&self.place);
        place.core.tasks.spawn(async move {
            let id = message.0.message_id().as_ref().map(ToString::to_string);
            let queue = self.place.queue.clone();
            let published = self.place.core.durable.publish(name(""), queue, message, id);
            match published.await {
                Ok(_) => self.delivery.acknowledge(),
                Err(error) => {
                    tracing::warn!(queue = %self.place.queue, %error, "a message could not be counted; it will be delivered again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(self.delivery);
                }
            }
        }.boxed());
    }
}

impl Settle for Delivered {
    fn answer(&mut self, answer: Envelope) {
        self.answer = Some(answer);
    }

    fn handled(self: Box<Self>) {
        let Self {
            place,
            question,
            answer,
            delivery,
            ..
        } = *self;
        if let Some(delivery) = answered(&place, question, answer, Some(delivery)) {
            delivery.acknowledge();
        }
    }

    fn again(mut self: Box<Self>, after: Duration) {
        let message = self.onward([]);
        let place = Arc::clone(&self.place);
        place.core.tasks.spawn(async move {
            match self.place.rest(message, after).await {
                Ok(()) => self.delivery.acknowledge(),
                Err(error) => {
                    tracing::warn!(queue = %self.place.queue, %error, "a message could not be put to rest; its member keeps it meanwhile");
                    tokio::time::sleep(after).await;
                    drop(self.delivery);
                }
            }
        }.boxed());
    }

    fn dead(mut self: Box<Self>, reason: String) {
        answered(&self.place, self.question.take(), self.answer.take(), None);
        let more = durable_letters::headers(&self.place.queue, &reason);
        let message = self.onward(more);
        let place = Arc::clone(&self.place);
        place.core.tasks.spawn(async move {
            match durable_letters::bury(&self.place.core, &self.place.letters, message).await {
                Ok(()) => self.delivery.acknowledge(),
                Err(error) => {
                    tracing::warn!(queue = %self.place.queue, %error, "a dead letter could not be kept; the message will be delivered again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(self.delivery);
                }
            }
        }.boxed());
    }
}

/// A message that is sent to its group again, as it was before it was delivered.
pub(super) fn afresh(properties: BasicProperties) -> BasicProperties {
    let headers = properties.headers().clone().unwrap_or_default();
    let headers: FieldTable = headers
        .inner()
        .iter()
        .filter(|(key, _)| key.as_str() != ATTEMPTS && !durable_letters::is_own(key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<std::collections::BTreeMap<_, _>>()
        .into();
    properties
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_message_id(name(&random_name()))
}

/// The address that a dead letter was published to, and how often it was delivered.
pub(super) fn history(properties: &BasicProperties) -> (String, u32) {
    let attempts = properties::number_header(properties, ATTEMPTS).unwrap_or(0);
    (
        properties::text_header(properties, ADDRESS).unwrap_or_default(),
        u32::try_from(attempts).unwrap_or(u32::MAX),
    )
}
