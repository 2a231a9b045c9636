//! Where replies come back: Direct Reply-to, or a queue of this node's own.
//!
//! Either is a consumer on the channel that sends the requests, so that both end together: a reply can't come to a
//! channel that is gone, and every request on it is lost at that moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};

use super::errors::bounded;
use super::properties::{DIRECT_REPLY_TO, EXCHANGE_OF_REPLIES, name, read_reply};
use super::random_name;
use super::routes::Routes;
use super::wire::{Channel, Consume, Consuming, Message};
use crate::error::Execution;
use crate::limits::too_large;
use crate::transport::{ReplyRoute, ReplySink, TransportError, TransportErrorKind};

/// How to open an inbox.
#[derive(Clone)]
pub(super) struct Inbox {
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) route: ReplyRoute,
    pub(super) max_body: usize,
    /// Learns from replies that come.
    pub(super) routes: Arc<Routes>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// An open inbox.
pub(super) struct Session {
    pub(super) reply_to: ShortString,
    consuming: Consuming,
}

/// Resolves when no more replies come, and all that came were told; never without an inbox.
pub(super) async fn ended(session: Option<&mut Session>) {
    match session {
        Some(session) => drop(session.consuming.ended().await),
        None => std::future::pending().await,
    }
}

impl Inbox {
    /// Opens it on the channel that the requests go out on.
    pub(super) async fn open(&self, channel: &Channel, limit: Duration) -> Result<Session, TransportError> {
        let reply_to = match self.route {
            ReplyRoute::Direct => name(DIRECT_REPLY_TO),
            ReplyRoute::Queue => own_queue(channel, limit).await?,
        };
        let inbox = self.clone();
        let tell = move |message| inbox.read(message);
        let consume = Consume {
            queue: &reply_to,
            no_ack: true,
            max_body: self.max_body,
            limit,
        };
        let consuming = channel.consume(consume, tell).await?;
        Ok(Session { reply_to, consuming })
    }

    /// Tells whose reply it is.
    fn read(&self, message: Message) {
        let size = message.size;
        let Some((id, reply)) = read_reply(&message.properties, message.data) else {
            tracing::debug!("a reply without a correlation id was dropped");
            return;
        };
        self.routes.replied(&id);
        let failed = |kind, execution, message| {
            let error = TransportError {
                kind,
                execution,
                message,
            };
            self.sink.failed(&id, error);
        };
        if size > self.max_body {
            let reason = too_large("the body of the reply", size, self.max_body);
            failed(TransportErrorKind::TooLarge, Execution::Failed, reason);
        } else if let Some(reason) = message.malformed {
            let reason = format!("the reply can't be read: {reason}");
            failed(TransportErrorKind::Protocol, Execution::MayHaveRun, reason);
        } else {
            self.sink.reply(&id, reply);
        }
    }
}

/// A queue that only this connection may use, with a name that nobody can guess or had before.
async fn own_queue(channel: &Channel, limit: Duration) -> Result<ShortString, TransportError> {
    let address = name(&format!("{EXCHANGE_OF_REPLIES}.{}", random_name()));
    let exchange = name(EXCHANGE_OF_REPLIES);
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declare = channel.exchange_declare(
        exchange.clone(),
        ExchangeKind::Direct,
        durable,
        FieldTable::default(),
    );
    bounded("declaring the exchange `commlib.reply`", limit, declare).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(address.clone(), options, FieldTable::default());
    bounded("declaring the reply queue", limit, declare).await?;
    let bind = channel.queue_bind(
        address.clone(),
        exchange,
        address.clone(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bounded("binding the reply queue", limit, bind).await?;
    Ok(address)
}
