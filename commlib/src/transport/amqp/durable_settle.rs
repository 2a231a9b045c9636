//! Ends the handling of messages of [durable topics](super::durable): acknowledges them, lets them rest for another try,
//! or makes them dead letters. What goes to another queue is confirmed there before it is acknowledged here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::acks::Unsettled;
use super::durable::{self, ADDRESS};
use super::errors::bounded;
use super::properties::{self, Question, name, short};
use super::responder::Answer;
use super::{Core, durable_letters, kept, random_name};
use crate::address::Pattern;
use crate::envelope::Envelope;
use crate::transport::{DurableSpec, Settle, TransportError};

/// Messages that rest for the same time.
const RESTING_LENGTH: i32 = 10_000;
/// A queue for resting messages goes when nothing was put to rest for this long after the last has left, in ms.
const RETRY_EXPIRES: u128 = 60_000;
/// How long a message is kept that could not go elsewhere, before it is delivered again.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a message was delivered before it came to rest.
const ATTEMPTS: &str = "commlib-attempts";
/// Its id. The property has one of our own meanwhile, by which the broker's returns are told apart.
const MESSAGE_ID: &str = "commlib-message-id";

/// A group and its queues.
pub(super) struct Place {
    core: Arc<Core>,
    /// The group and its pattern.
    pub(super) name: String,
    pub(super) queue: ShortString,
    /// It is that of a durable method.
    pub(super) requests: bool,
    letters: ShortString,
}

impl Place {
    pub(super) fn new(
        core: &Arc<Core>,
        group: &str,
        pattern: &Pattern,
        durable: &DurableSpec,
    ) -> Result<Self, TransportError> {
        let name = durable::place(group, pattern);
        Ok(Self {
            core: Arc::clone(core),
            queue: if durable.requests {
                kept::queue(pattern.as_str())?
            } else {
                durable::queue(&name)?
            },
            requests: durable.requests,
            letters: durable_letters::queue(&durable.dead_letters)?,
            name,
        })
    }

    /// Puts a message to rest, from where it comes back after this time.
    async fn rest(&self, message: (BasicProperties, Bytes), after: Duration) -> Result<(), TransportError> {
        let ms = after.as_millis().clamp(1, 1 << 31);
        let queue = short(
            "name of the retry queue",
            &format!("commlib.retry.{ms}.{}", self.name),
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
        // Of a quorum queue, because only that waits until the group's queue has what leaves it. Each time anew: the
        // queue is not to expire before this message has left it.
        durable::declare(&channel, limit, &queue, "quorum", RESTING_LENGTH, arguments).await?;
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
pub(super) struct Delivered {
    pub(super) place: Arc<Place>,
    pub(super) delivery: Unsettled,
    pub(super) address: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    pub(super) attempt: u32,
    /// Of a request, who is to be answered, and the answer.
    pub(super) question: Option<Question>,
    pub(super) answer: Option<Envelope>,
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

    /// Sends it through the group's queue once more, with one more attempt in its headers.
    pub(super) fn count(mut self: Box<Self>) {
        let message = self.onward([]);
        self.leave(PATIENCE, "a message could not be counted", |place| {
            async move {
                let id = message.0.message_id().as_ref().map(ToString::to_string);
                let queue = place.queue.clone();
                place.core.durable.publish(name(""), queue, message, id).await?;
                Ok(())
            }
            .boxed()
        });
    }

    /// Acknowledges it once it is elsewhere; else it is kept for a while and then delivered again.
    fn leave(
        self: Box<Self>,
        patience: Duration,
        failure: &'static str,
        moving: impl FnOnce(Arc<Place>) -> BoxFuture<'static, Result<(), TransportError>>,
    ) {
        let Self { place, delivery, .. } = *self;
        let moved = moving(Arc::clone(&place));
        let tasks = place.core.tasks.clone();
        let leaving = async move {
            match moved.await {
                Ok(()) => delivery.acknowledge(),
                Err(error) => {
                    tracing::warn!(queue = %place.queue, %error, "{failure}; it will be delivered again");
                    tokio::time::sleep(patience).await;
                    drop(delivery);
                }
            }
        };
        tasks.spawn(leaving.boxed());
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
        self.leave(after, "a message could not be put to rest", |place| {
            async move { place.rest(message, after).await }.boxed()
        });
    }

    fn dead(mut self: Box<Self>, reason: String) {
        answered(&self.place, self.question.take(), self.answer.take(), None);
        let more = durable_letters::headers(&self.place.queue, &reason);
        let message = self.onward(more);
        self.leave(PATIENCE, "a dead letter could not be kept", |place| {
            async move { durable_letters::bury(&place.core, &place.letters, message).await }.boxed()
        });
    }
}

/// How often a message was delivered, this time included, as far as its headers say.
pub(super) fn attempt(properties: &BasicProperties, returned: bool) -> u32 {
    let before = properties::number_header(properties, ATTEMPTS).filter(|_| returned);
    let attempt = before.unwrap_or(0).saturating_add(1);
    u32::try_from(attempt).unwrap_or(u32::MAX)
}

/// The id that a message had before it went to another queue.
pub(super) fn message_id(properties: &BasicProperties) -> Option<String> {
    properties::text_header(properties, MESSAGE_ID)
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
