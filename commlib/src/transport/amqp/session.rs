//! The life of whatever takes from the broker: it waits for a connection, builds its channel there, takes until that
//! ends, and begins anew, until its handle is stopped or dropped.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::{BasicCancelOptions, BasicQosOptions, QueueBindOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::{Acks, Unsettled};
use super::errors::bounded;
use super::properties::{name, short};
use super::rebuild::Rebuild;
use super::supervisor::Link;
use super::wire::{Channel, Incoming, Message};
use super::{Alive, Core, Started, TOPICS};
use crate::address::Pattern;
use crate::transport::{Consumer, Subscription, TransportError, TransportErrorKind};

/// How taking came to an end.
pub(super) enum End {
    Stopped,
    /// With the reason where there is one.
    Gone(Option<lapin::Error>),
}

/// What has this life. It is told to stop by the token that it was made with.
pub(super) trait Taker: Send + Sync + Sized + 'static {
    /// A channel with its consumers.
    type Session: Send;

    /// Declares what it takes from, and consumes that.
    fn build(&self, link: &Link) -> impl Future<Output = Result<Self::Session, TransportError>> + Send;

    /// It was built, and nobody waited for that: it was away, or there was no connection at first.
    fn is_back(&self) {}

    /// Takes until that ends, and lets go of the channel.
    fn take(&self, session: Self::Session, link: &Arc<Link>) -> impl Future<Output = End> + Send;
}

/// Ends a taker when it is stopped or dropped.
pub(super) struct Handle {
    stop: CancellationToken,
    stopped: CancellationToken,
    _guard: DropGuard,
    _alive: Arc<Alive>,
}

impl Handle {
    fn end(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(self.stopped.cancelled())
    }
}

impl Consumer for Handle {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.end()
    }
}

impl Subscription for Handle {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.end()
    }
}

/// Starts a taker; resolves when it was built.
pub(super) async fn begin<T: Taker>(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    what: &str,
    rebuild: Rebuild,
    taker: impl FnOnce(CancellationToken) -> T,
) -> Result<Box<Handle>, TransportError> {
    core.consuming.start();
    let stop = core.closing.child_token();
    let guard = stop.clone().drop_guard();
    let stopped = CancellationToken::new();
    let ended = stopped.clone().drop_guard();
    let (started, ready) = core.beginning();
    let running = run(taker(stop.clone()), rebuild, stop.clone(), started);
    core.tasks.spawn(
        async move {
            running.await;
            drop(ended);
        }
        .boxed(),
    );
    core.begun(what, ready).await?;
    Ok(Box::new(Handle {
        stop,
        stopped,
        _guard: guard,
        _alive: alive,
    }))
}

async fn run<T: Taker>(
    taker: T,
    mut rebuild: Rebuild,
    stop: CancellationToken,
    mut started: Option<Started>,
) {
    while let Some(Some(link)) = stop.run_until_cancelled(rebuild.next_link()).await {
        let Some(built) = stop.run_until_cancelled(taker.build(&link)).await else {
            return;
        };
        match built {
            Ok(session) => {
                match started.take().map(|started| started.send(Ok(()))) {
                    Some(Ok(())) => {}
                    // Whoever began it has gone.
                    Some(Err(_)) => stop.cancel(),
                    None => taker.is_back(),
                }
                match taker.take(session, &link).await {
                    End::Stopped => return,
                    End::Gone(error) => rebuild.ended(error.as_ref()),
                }
            }
            Err(_) if started.as_ref().is_some_and(oneshot::Sender::is_closed) => return,
            Err(error) => match started.take_if(|_| is_final(&error)) {
                Some(started) => {
                    let _ = started.send(Err(error));
                    return;
                }
                None => rebuild.failed(&error),
            },
        }
        if stop.run_until_cancelled(rebuild.pause()).await.is_none() {
            return;
        }
    }
}

/// Whether it is no use to try again before anybody has changed something at the broker.
fn is_final(error: &TransportError) -> bool {
    matches!(
        error.kind,
        TransportErrorKind::Conflict | TransportErrorKind::Forbidden
    )
}

/// Has the broker send no more than so many messages that are not acknowledged.
pub(super) async fn limit_taken(
    channel: &Channel,
    messages: u32,
    limit: Duration,
) -> Result<(), TransportError> {
    let prefetch = u16::try_from(messages.max(1)).unwrap_or(u16::MAX);
    let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
    bounded("limiting what is taken", limit, qos).await
}

/// Has a queue get what is published to topics of this pattern.
pub(super) async fn bind(
    channel: &Channel,
    queue: &ShortString,
    pattern: &Pattern,
    limit: Duration,
) -> Result<(), TransportError> {
    let bind = channel.queue_bind(
        queue.clone(),
        name(TOPICS),
        short("pattern", pattern.as_str())?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    let what = format!("binding the queue `{queue}` to `{pattern}`");
    bounded(&what, limit, bind).await
}

/// The next message of a consumer, or how it ended. Dropping the future loses nothing.
pub(super) async fn next(incoming: &mut Incoming, stop: &CancellationToken) -> Result<Message, End> {
    tokio::task::coop::consume_budget().await;
    match stop.run_until_cancelled(incoming.next()).await {
        Some(Ok(message)) => Ok(message),
        Some(Err(reason)) => Err(End::Gone(reason)),
        None => Err(End::Stopped),
    }
}

/// Cancels a consumer. What came before that can still be taken.
pub(super) async fn cancel(channel: &Channel, tag: ShortString, limit: Duration) {
    let cancel = channel.basic_cancel(tag, BasicCancelOptions::default());
    let _ = tokio::time::timeout(limit, cancel).await;
}

/// Lets go of the only consumer of a channel: what it took and nobody was given goes back to the broker, and the
/// channel stays open for as long as there is something to acknowledge.
pub(super) async fn let_go(
    link: &Arc<Link>,
    acks: &Arc<Acks>,
    mut incoming: Incoming,
    end: &End,
    limit: Duration,
) {
    if matches!(end, End::Stopped) {
        let channel = acks.channel().clone();
        cancel(&channel, incoming.tag(), limit).await;
        while let Ok(message) = incoming.next().await {
            drop(Unsettled::new(acks, message.delivery_tag));
        }
        link.close_channel(channel, acks.settled());
    }
}
