//! Requests to durable methods: each method has a durable queue on the default exchange, which whoever sends or takes
//! requests declares. Taking is that of [durable topics](super::durable). Idempotency keys are remembered in this process
//! only: the broker has no place for them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::Core;
use super::durable::{self, REQUESTS_LENGTH};
use super::errors::bounded;
use super::properties::{self, name, short};
use super::publisher::Lane;
use crate::address::Address;
use crate::envelope::Envelope;
use crate::transport::{Accepted, Durability, ReplyRoute, TransportError, TransportErrorKind};

/// The queues of durable methods begin so.
pub(super) const REQUEST_QUEUE: &str = "commlib.requests.";

/// The queue of a durable method.
pub(super) fn queue(method: &str) -> Result<ShortString, TransportError> {
    short(
        "name of the queue of requests",
        &format!("{REQUEST_QUEUE}{method}"),
    )
}

/// Keeps a request without a reply.
pub(super) async fn send(
    core: &Core,
    address: &Address,
    message: &Envelope,
) -> Result<Accepted, TransportError> {
    let id = message.meta.id.clone().unwrap_or_default();
    let message = encode(address, message, None)?;
    publish(core, &core.durable, address, message, &id).await?;
    Ok(Accepted {
        durability: Durability::BrokerDisk,
        ..Accepted::default()
    })
}

/// Keeps a request; the sink hears of it only if that fails.
pub(super) fn request(
    core: &Arc<Core>,
    lane: &Arc<Lane>,
    address: Address,
    message: &Envelope,
) -> Result<(), TransportError> {
    let id = message.meta.id.clone().unwrap_or_default();
    let message = encode(&address, message, Some(core.options.reply_route))?;
    let (core, lane) = (Arc::clone(core), Arc::clone(lane));
    let runtime = core.runtime.clone();
    let tasks = core.tasks.clone();
    let publishing = async move {
        if let Err(error) = publish(&core, &lane, &address, message, &id).await
            && let Some(sink) = lane.sink()
        {
            sink.failed(&id, error);
        }
    };
    tasks.spawn_on(publishing.boxed(), &runtime);
    Ok(())
}

fn encode(
    address: &Address,
    message: &Envelope,
    reply: Option<ReplyRoute>,
) -> Result<(BasicProperties, Bytes), TransportError> {
    let (properties, body) = properties::kept(message, reply)?;
    let mut headers = properties.headers().clone().unwrap_or_default();
    let address = AMQPValue::LongString(address.as_str().into());
    headers.insert(name(durable::ADDRESS), address);
    Ok((properties.with_headers(headers), body))
}

/// Publishes to the queue, which is made if there is none.
async fn publish(
    core: &Core,
    lane: &Arc<Lane>,
    address: &Address,
    message: (BasicProperties, Bytes),
    id: &str,
) -> Result<(), TransportError> {
    let queue = queue(address.as_str())?;
    let publish = |message| lane.publish(name(""), queue.clone(), message, Some(id.to_owned()));
    match publish(message.clone()).await {
        Err(error) if error.kind == TransportErrorKind::NoResponders => {
            make(core, &queue).await?;
            publish(message).await
        }
        published => published,
    }
    .map(|_| ())
}

async fn make(core: &Core, queue: &ShortString) -> Result<(), TransportError> {
    let link = core.link().await?;
    let channel = link.channel().await?;
    let limit = core.options.operation_timeout;
    let arguments = FieldTable::default();
    durable::declare(&channel, limit, queue, "classic", REQUESTS_LENGTH, arguments).await?;
    let closing = channel.close(200, name("done"));
    if let Err(error) = bounded("closing a channel", limit, closing).await {
        tracing::debug!(%error, "a channel was not closed");
    }
    Ok(())
}
