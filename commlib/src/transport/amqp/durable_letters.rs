//! Dead letters of groups: a queue per group, with why and after how many attempts in the headers of each message.
//!
//! AMQP has no way to look at one message of a queue. Listing takes messages and gives them back, so meanwhile they are
//! hidden from everybody else; a single one is found by going through those before it.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::durable::GROUP_QUEUE;
use super::durable_settle::{afresh, history};
use super::errors::{self, bounded};
use super::kept::REQUEST_QUEUE;
use super::properties::{self, name, read_topic, short};
use super::supervisor::Link;
use super::wire::{Channel, Message};
use super::{Core, random_name};
use crate::envelope::Envelope;
use crate::limits::HARD_BACKLOG;
use crate::transport::durable::now_micros;
use crate::transport::{DeadLetter, Disposal, TransportError, TransportErrorKind};

/// Reasons are cut here: headers have to fit one frame.
const MAX_REASON: usize = 8 * 1024;

const OWN: &str = "commlib-dead-";
const ID: &str = "commlib-dead-id";
const REASON: &str = "commlib-dead-reason";
const QUEUE: &str = "commlib-dead-queue";
const TIME: &str = "commlib-dead-us";

/// The queue of the dead letters of a group below its namespace.
pub(super) fn queue(group: &str) -> Result<ShortString, TransportError> {
    short(
        "name of the queue of dead letters",
        &format!("commlib.dead.{group}"),
    )
}

/// Whether a header is one of a dead letter.
pub(super) fn is_own(header: &str) -> bool {
    header.starts_with(OWN)
}

/// The headers of a message of this queue that is given up.
pub(super) fn headers(queue: &ShortString, reason: &str) -> [(&'static str, AMQPValue); 4] {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let now = i64::try_from(now_micros()).unwrap_or(i64::MAX);
    [
        (ID, text(&random_name())),
        (REASON, text(properties::cut(reason, MAX_REASON))),
        (QUEUE, text(queue.as_str())),
        (TIME, AMQPValue::LongLongInt(now)),
    ]
}

/// Keeps a dead letter.
pub(super) async fn bury(
    core: &Core,
    letters: &ShortString,
    message: (BasicProperties, Bytes),
) -> Result<(), TransportError> {
    let link = core.link().await?;
    let channel = link.channel().await?;
    let mut arguments = FieldTable::default();
    let length = i32::try_from(core.options.limits.dead_letters).unwrap_or(i32::MAX);
    arguments.insert(name("x-max-length"), AMQPValue::LongInt(length));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let what = format!("declaring the queue `{letters}`");
    let declare = channel.queue_declare(letters.clone(), options, arguments);
    let closed = match bounded(&what, core.options.operation_timeout, declare).await {
        // A node that keeps another number of them made it. That closed the channel.
        Err(error) if error.kind == TransportErrorKind::Conflict => {
            tracing::warn!(queue = %letters, %error, "dead letters of this group are kept as the one says who made their queue");
            true
        }
        declared => declared.map(|_| false)?,
    };
    let id = message.0.message_id().as_ref().map(ToString::to_string);
    core.durable
        .publish(name(""), letters.clone(), message, id)
        .await?;
    if !closed {
        close(core, &channel).await;
    }
    Ok(())
}

/// The oldest dead letters of a group.
pub(super) async fn list(core: &Core, group: &str, limit: usize) -> Result<Vec<DeadLetter>, TransportError> {
    let mut scan = Scan::begin(core, group).await?;
    let mut letters = Vec::new();
    while letters.len() < limit.min(HARD_BACKLOG as usize) {
        let Some(message) = scan.next().await? else { break };
        letters.push(describe(message));
    }
    scan.end().await;
    Ok(letters)
}

/// Does away with one dead letter. Whether there was one of this id.
pub(super) async fn dispose(
    core: &Core,
    group: &str,
    id: &str,
    disposal: Disposal,
) -> Result<bool, TransportError> {
    let mut scan = Scan::begin(core, group).await?;
    let found = loop {
        match scan.next().await? {
            Some(message) if letter_id(&message.properties) == id => break Some(message),
            Some(_) => {}
            None => break None,
        }
    };
    let disposed = match found {
        None => false,
        Some(message) => {
            let tag = message.delivery_tag;
            if disposal == Disposal::Resend {
                resend(core, message).await?;
            }
            // The broker answers the close of the channel when it has dealt with this.
            scan.channel.ack(tag, false);
            true
        }
    };
    scan.end().await;
    Ok(disposed)
}

async fn resend(core: &Core, message: Message) -> Result<(), TransportError> {
    let queue = properties::text_header(&message.properties, QUEUE).unwrap_or_default();
    // Who can write to the queue of dead letters is not to choose any queue.
    let queue = if queue.starts_with(GROUP_QUEUE) || queue.starts_with(REQUEST_QUEUE) {
        short("name of the group's queue", &queue)?
    } else {
        return Err(TransportError::did_not_run(
            TransportErrorKind::Protocol,
            "the dead letter does not say which group it is of; discard it",
        ));
    };
    let properties = afresh(message.properties);
    let id = properties.message_id().as_ref().map(ToString::to_string);
    let message = (properties, message.data);
    core.durable
        .publish(name(""), queue, message, id)
        .await
        .map(|_| ())
}

fn letter_id(properties: &BasicProperties) -> String {
    properties::text_header(properties, ID).unwrap_or_default()
}

fn describe(message: Message) -> DeadLetter {
    let Message {
        properties,
        data: body,
        ..
    } = message;
    // What can't be read has no more to it than its bytes.
    let read = read_topic(&properties, body.clone()).unwrap_or_else(|_| Envelope {
        data: body,
        ..Envelope::default()
    });
    let (topic, attempts) = history(&properties);
    DeadLetter {
        id: letter_id(&properties),
        topic,
        reason: properties::text_header(&properties, REASON).unwrap_or_default(),
        attempts,
        body: read.data,
        content_type: read.meta.content_type,
        content_encoding: read.meta.content_encoding,
        headers: read.meta.headers,
        timestamp: read.meta.timestamp,
        died: properties::number_header(&properties, TIME),
    }
}

/// Goes through a queue of dead letters; what it took and did not remove goes back at its end.
struct Scan<'a> {
    core: &'a Core,
    queue: ShortString,
    channel: Channel,
    /// Keeps the connection.
    _link: Arc<Link>,
}

impl<'a> Scan<'a> {
    async fn begin(core: &'a Core, group: &str) -> Result<Self, TransportError> {
        let link = core.link().await?;
        Ok(Self {
            core,
            queue: queue(group)?,
            channel: link.channel().await?,
            _link: link,
        })
    }

    async fn next(&mut self) -> Result<Option<Message>, TransportError> {
        let get = self.channel.get(&self.queue);
        let limit = self.core.options.operation_timeout;
        let what = "looking at dead letters";
        match tokio::time::timeout(limit, get).await {
            Ok(Ok(message)) => Ok(message),
            // There is no queue before the first dead letter.
            Ok(Err(error)) if errors::code(&error) == Some(404) => Ok(None),
            Ok(Err(error)) => Err(errors::operation(what, &error, crate::Execution::DidNotRun)),
            Err(_) => Err(errors::timeout(what, limit, crate::Execution::DidNotRun)),
        }
    }

    async fn end(self) {
        close(self.core, &self.channel).await;
    }
}

async fn close(core: &Core, channel: &Channel) {
    let closing = channel.close(200, name("done"));
    if let Err(error) = bounded("closing a channel", core.options.operation_timeout, closing).await {
        tracing::debug!(%error, "a channel was not closed");
    }
}
