//! Durable topics: a queue for each group and pattern, which stays at the broker.
//!
//! It is a classic queue: after a crash of a broker that is alone it is there at once, where a quorum queue was seen to
//! have no leader for longer than publishers wait. Those don't count deliveries, so a message that comes a second time
//! goes through the queue once more, with the count in its headers. One whose handler failed rests in a queue of its
//! delay and comes back from there by itself; one that is given up goes to the [dead letters](super::durable_letters)
//! of its group. All of these are published and confirmed before the broker hears that the group is done with the
//! delivery, so a crash in between gives a second copy, never none.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::errors::{self, bounded};
use super::properties::{self, name, short};
use super::wire::Channel;
use super::{Core, TOPICS, random_name};
use crate::address::{Address, Pattern};
use crate::envelope::Envelope;
use crate::error::Execution;
use crate::transport::{Accepted, Durability, Removal, TransportError, TransportErrorKind};

/// The queues of groups begin so.
pub(super) const GROUP_QUEUE: &str = "commlib.durable.";
/// Requests that wait for the servers of a durable method; more are refused.
pub(super) const REQUESTS_LENGTH: i32 = 100_000;

/// The address of a message that did not come from the exchange of topics.
pub(super) const ADDRESS: &str = "commlib-address";

/// Publishes to the groups of a durable topic and to whoever listens.
pub(super) async fn publish(
    core: &Core,
    address: &Address,
    message: &Envelope,
    transient: bool,
) -> Result<Accepted, TransportError> {
    let key = short("address", address.as_str())?;
    let id = message.meta.id.clone().unwrap_or_else(random_name);
    let (properties, body) = properties::topic(message)?;
    let properties = properties
        .with_delivery_mode(if transient { 1 } else { 2 })
        .with_message_id(short("id", &id)?);
    let published = core
        .durable
        .publish(name(TOPICS), key, (properties, body), Some(id));
    let durability = match published.await {
        Ok(_) if transient => Durability::BrokerMemory,
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
pub(super) fn place(group: &str, pattern: &Pattern) -> String {
    // The characters of wildcards are no part of addresses, nor are these.
    let pattern = pattern.as_str().replace('*', "+").replace('#', "++");
    format!("{group}.{pattern}")
}

/// The queue of a group.
pub(super) fn queue(place: &str) -> Result<ShortString, TransportError> {
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
