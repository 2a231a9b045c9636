//! Where replies come back: Direct Reply-to, or a queue of this node's own.
//!
//! Either is a consumer on the channel that sends the requests, so that both end together: a reply can't come to a
//! channel that is gone, and every request on it is lost at that moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer, ExchangeKind};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::errors::bounded;
use super::linger::linger;
use super::properties::{DIRECT_REPLY_TO, EXCHANGE_OF_REPLIES, name, read_reply};
use super::random_name;
use super::routes::Routes;
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
    channel: Channel,
    reader: JoinHandle<()>,
    ended: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
        linger(self.channel.clone());
    }
}

impl Session {
    /// Lets the replies that have come be read to the end.
    pub(super) async fn finish(self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.ended.cancelled()).await;
    }
}

/// Resolves when no more replies come; never without an inbox.
pub(super) async fn ended(session: Option<&Session>) {
    match session {
        Some(session) => session.ended.cancelled().await,
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
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consume = channel.basic_consume(reply_to.clone(), name(""), options, FieldTable::default());
        let consumer = bounded("listening for replies", limit, consume).await?;
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let reader = tokio::spawn(read(consumer, self.clone(), guard).boxed());
        Ok(Session {
            reply_to,
            channel: channel.clone(),
            reader,
            ended,
        })
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

async fn read(mut replies: Consumer, inbox: Inbox, _ended: DropGuard) {
    let Inbox {
        sink,
        max_body,
        routes,
        ..
    } = inbox;
    while let Some(Ok(delivery)) = replies.next().await {
        let size = delivery.data.len();
        let reply = read_reply(&delivery.properties, Bytes::from(delivery.data));
        if let Some((id, _)) = &reply {
            routes.replied(id);
        }
        match reply {
            None => tracing::debug!("a reply without a correlation id was dropped"),
            Some((id, _)) if size > max_body => sink.failed(
                &id,
                TransportError {
                    kind: TransportErrorKind::TooLarge,
                    execution: Execution::Failed,
                    message: too_large("the body of the reply", size, max_body),
                },
            ),
            Some((id, reply)) => sink.reply(&id, reply),
        }
        tokio::task::coop::consume_budget().await;
    }
}
