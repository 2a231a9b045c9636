//! RabbitMQ, over AMQP 0-9-1.
//!
//! - Two connections: one publishes (requests and their replies, topics, answers), the other takes and acknowledges. A
//!   broker under an alarm stops reading from connections that publish, and from nothing else ([`supervisor`]).
//! - What is published goes through [lanes](publisher), each a channel, with many messages in flight.
//! - A `consume` and a `subscribe` have a channel each, and are built anew from their specification whenever it goes.
//!
//! - Messages don't pass through the client library: a task for each connection owns its socket, reads and writes them, and
//!   leaves everything else to the library ([`wire`]). So a message that the broker passes on although it is not valid AMQP
//!   is one message that can't be read, and not the end of a connection.
//!
//! The client library logs the login at `TRACE`: filter its target, `lapin`.

mod acks;
mod arrival;
mod auto_ack;
mod connector;
mod consumer;
mod durable;
mod durable_group;
mod durable_letters;
mod durable_settle;
mod errors;
mod feedback;
mod flight;
#[cfg(fuzzing)]
pub mod fuzz;
mod inbox;
mod kept;
mod last;
mod ledger;
mod prefetch;
mod properties;
mod publisher;
mod queue;
mod rebuild;
mod responder;
mod routes;
mod session;
mod shared;
mod subscription;
mod supervisor;
mod surge;
mod unconfirmed;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connector::Target;
use self::inbox::Inbox;
use self::properties::{name, short};
use self::publisher::{Kind, Lane};
use self::queue::{Job, Outcome};
use self::routes::Routes;
use self::shared::{Alive, Core, Started};
use self::supervisor::{Board, Role, Slot};
use super::claims::Claims;
use super::durable::{never_built, not_built};
use super::*;
use crate::error::ConnectError;

/// The exchange of topics.
const TOPICS: &str = "amq.topic";
/// No broker takes larger messages.
const MAX_MESSAGE: usize = 128 * 1024 * 1024;
/// How often it is looked whether everything was sent when closing.
const LOOK: Duration = Duration::from_millis(2);

/// The transport.
#[derive(Debug)]
struct Amqp {
    core: Arc<Core>,
    /// Tasks don't have it: they end with the last who does.
    alive: Arc<Alive>,
    board: Arc<Board>,
    publishing: Arc<Slot>,
    requests: OnceLock<Requests>,
    oneway: Arc<Lane>,
    topics: Arc<Lane>,
    unconfirmed_topics: Arc<Lane>,
    /// Cancelled when nothing more is sent.
    ended: CancellationToken,
    closed: AtomicBool,
}

/// The two ways of a request.
#[derive(Debug)]
struct Requests {
    confirmed: Arc<Lane>,
    unconfirmed: Arc<Lane>,
    routes: Arc<Routes>,
}

/// Connects.
pub(crate) async fn connect(
    url: &BrokerUrl,
    options: TransportOptions,
) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(open(url, options).await?)
}

async fn open(url: &BrokerUrl, options: TransportOptions) -> Result<Arc<Amqp>, ConnectError> {
    let limit = options.operation_timeout;
    let target = Arc::new(Target::new(
        url,
        &options.tls,
        format!("commlib {}", options.node_id),
        options.connect_timeout,
    )?);
    let board = Arc::new(Board::new());
    let slot = |role| Slot::new(role, Arc::clone(&target), Arc::clone(&board), limit);
    let (publishing, consuming) = (slot(Role::Publishing), slot(Role::Consuming));
    if options.lazy {
        publishing.start();
    } else {
        publishing.connect().await?;
    }
    let ended = CancellationToken::new();
    let lane = |kind| Lane::new(kind, Arc::clone(&publishing), limit, ended.clone());
    let closing = CancellationToken::new();
    let alive = Arc::new(Alive {
        closing: closing.clone(),
        ended: ended.clone(),
        slots: [Arc::clone(&publishing), Arc::clone(&consuming)],
    });
    Ok(Arc::new(Amqp {
        alive,
        oneway: lane(Kind::Oneway),
        topics: lane(Kind::Topics),
        unconfirmed_topics: lane(Kind::UnconfirmedTopics),
        core: Arc::new(Core {
            options,
            address: url.address(),
            publishing: Arc::clone(&publishing),
            consuming,
            replies: lane(Kind::Replies),
            queue_replies: lane(Kind::Replies),
            durable: lane(Kind::Durable),
            claims: Claims::default(),
            runtime: Handle::current(),
            closing,
            tasks: TaskTracker::new(),
            refused: AtomicU64::new(0),
            shared_limit_refused: AtomicBool::new(false),
        }),
        board,
        publishing,
        requests: OnceLock::new(),
        ended,
        closed: AtomicBool::new(false),
    }))
}

/// 24 characters that nobody can guess, for names at the broker.
fn random_name() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random: [u8; 24] = rand::random();
    random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 63)]))
        .collect()
}

impl Amqp {
    fn check(&self, body: usize) -> Result<(), TransportError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(TransportError::closed());
        }
        let limit = MAX_MESSAGE;
        if body > limit {
            return Err(TransportError::did_not_run(
                TransportErrorKind::TooLarge,
                format!("the message has {body} bytes, the broker takes {limit}"),
            ));
        }
        Ok(())
    }

    /// Keeps a request without a reply.
    fn keep(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        async move {
            self.check(request.message.data.len())?;
            kept::send(&self.core, &request.address, &request.message).await
        }
        .boxed()
    }

    fn publish_durable(
        &self,
        address: Address,
        message: Envelope,
        transient: bool,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        async move {
            self.check(message.data.len())?;
            durable::publish(&self.core, &address, &message, transient).await
        }
        .boxed()
    }

    /// Becomes a member of a group that the broker keeps.
    fn join(
        &self,
        spec: SubscribeSpec,
        group: Group,
        kept: DurableSpec,
    ) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        async move {
            self.check(0)?;
            durable_group::join(&self.core, Arc::clone(&self.alive), spec, group, &kept).await
        }
        .boxed()
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        let mut lanes = vec![
            Arc::clone(&self.oneway),
            Arc::clone(&self.topics),
            Arc::clone(&self.unconfirmed_topics),
            Arc::clone(&self.core.replies),
            Arc::clone(&self.core.queue_replies),
            Arc::clone(&self.core.durable),
        ];
        if let Some(Requests {
            confirmed,
            unconfirmed,
            ..
        }) = self.requests.get()
        {
            lanes.extend([Arc::clone(confirmed), Arc::clone(unconfirmed)]);
        }
        lanes
    }
}

impl Transport for Amqp {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            no_responders: true,
            groups: true,
            give_back: true,
            expires: true,
            reconnects: true,
        }
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.board.subscribe()
    }

    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            self.check(0)?;
            let closing = self.ended.child_token();
            // An inbox that is not awaited to the end ends.
            let guard = closing.clone().drop_guard();
            let options = &self.core.options;
            let routes = Arc::new(Routes::default());
            let inbox = Inbox {
                sink,
                route: options.reply_route,
                max_body: options.limits.body_in,
                routes: Arc::clone(&routes),
            };
            let lane = |inbox, confirmed| {
                let lane = Lane::new(
                    Kind::Requests { inbox, confirmed },
                    Arc::clone(&self.publishing),
                    options.operation_timeout,
                    closing.clone(),
                );
                lane.start();
                lane
            };
            let (confirmed, unconfirmed) = (lane(inbox.clone(), true), lane(inbox, false));
            let ready = tokio::join!(confirmed.ready(), unconfirmed.ready());
            ready.0?;
            ready.1?;
            guard.disarm();
            let _ = self.requests.set(Requests {
                confirmed,
                unconfirmed,
                routes,
            });
            Ok(())
        }
        .boxed()
    }

    fn request(&self, request: Request) -> Result<(), TransportError> {
        self.check(request.message.data.len())?;
        let Some(requests) = self.requests.get() else {
            return Err(TransportError::did_not_run(
                TransportErrorKind::Disconnected,
                "there is no inbox for the reply",
            ));
        };
        if request.durable {
            if !super::durable::BUILT {
                return Err(not_built());
            }
            return kept::request(&self.core, &requests.confirmed, request.address, &request.message);
        }
        let key = short("address", request.address.as_str())?;
        let (properties, body) = properties::request(
            &request.message,
            request.time_to_live,
            Some(self.core.options.reply_route),
            self.core.options.dialect,
        )?;
        let id = request.message.meta.id.unwrap_or_default();
        let since = Instant::now();
        let lane = if requests.routes.wants_confirm(&request.address, &id, since) {
            &requests.confirmed
        } else {
            &requests.unconfirmed
        };
        lane.submit(Job {
            exchange: name(""),
            key,
            properties,
            body,
            outcome: Outcome::Request { id, since },
        })
    }

    fn forget(&self, id: &str) -> bool {
        self.requests
            .get()
            .is_some_and(|requests| requests.unconfirmed.forget(id) || requests.confirmed.forget(id))
    }

    fn send(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if request.durable {
            return self.keep(request);
        }
        async move {
            self.check(request.message.data.len())?;
            let key = short("address", request.address.as_str())?;
            let dialect = self.core.options.dialect;
            let message = properties::request(&request.message, request.time_to_live, None, dialect)?;
            // What the broker returns is found by this id, so there has to be one.
            let id = request.message.meta.id.unwrap_or_default();
            self.oneway.publish(name(""), key, message, Some(id)).await
        }
        .boxed()
    }

    fn publish(
        &self,
        address: Address,
        message: Envelope,
        options: PublishOptions,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if options.is_kept_for_certain() {
            return self.publish_durable(address, message, options.transient);
        }
        async move {
            self.check(message.data.len())?;
            let key = short("address", address.as_str())?;
            let message = properties::topic(&message)?;
            if options.unconfirmed {
                let publish = self
                    .unconfirmed_topics
                    .publish_unconfirmed(name(TOPICS), key, message);
                return publish.await;
            }
            self.topics.publish(name(TOPICS), key, message, None).await
        }
        .boxed()
    }

    fn publish_now(&self, address: &Address, message: Envelope, options: &PublishOptions) -> Published {
        let lane = &self.unconfirmed_topics;
        // What can't be done, or is wrong with the message, is told by `publish`.
        if options.is_kept_for_certain()
            || options.unconfirmed && !lane.is_open()
            || self.check(message.data.len()).is_err()
        {
            return Published::Waits(message);
        }
        let (Ok(key), Ok(encoded)) = (short("address", address.as_str()), properties::topic(&message)) else {
            return Published::Waits(message);
        };
        if !options.unconfirmed {
            return match self.topics.publish_now(name(TOPICS), key, encoded) {
                Some(outcome) => Published::Sent(outcome, message),
                None => Published::Waits(message),
            };
        }
        if lane.offer(name(TOPICS), key, encoded) {
            return Published::Done(Ok(Accepted {
                unconfirmed: true,
                ..Accepted::default()
            }));
        }
        Published::Waits(message)
    }

    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>> {
        async move {
            self.check(0)?;
            consumer::consume(&self.core, Arc::clone(&self.alive), spec).await
        }
        .boxed()
    }

    fn subscribe(
        &self,
        mut spec: SubscribeSpec,
    ) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        if let Some(kept) = spec.durable.take()
            && let Some(group) = spec.group.take()
        {
            return self.join(spec, group, kept);
        }
        async move {
            self.check(0)?;
            subscription::subscribe(&self.core, Arc::clone(&self.alive), spec).await
        }
        .boxed()
    }

    fn dead_letters(
        &self,
        group: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeadLetter>, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        let group = group.to_owned();
        async move {
            self.check(0)?;
            durable_letters::list(&self.core, &group, limit).await
        }
        .boxed()
    }

    fn dispose(
        &self,
        group: &str,
        id: &str,
        disposal: Disposal,
    ) -> BoxFuture<'_, Result<bool, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        let (group, id) = (group.to_owned(), id.to_owned());
        async move {
            self.check(0)?;
            durable_letters::dispose(&self.core, &group, &id, disposal).await
        }
        .boxed()
    }

    fn remove_group(
        &self,
        _: &Pattern,
        group: &str,
        pattern: &Pattern,
    ) -> BoxFuture<'_, Result<Removal, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        let (group, pattern) = (group.to_owned(), pattern.clone());
        async move {
            self.check(0)?;
            durable::remove(&self.core, &group, &pattern).await
        }
        .boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        let claimed = self.core.claims.claim(claim);
        async move { Ok(claimed) }.boxed()
    }

    fn conclude(&self, claim: Claim, answer: Option<Envelope>) -> BoxFuture<'_, Result<(), TransportError>> {
        if !super::durable::BUILT {
            return never_built();
        }
        self.core.claims.conclude(claim, answer);
        async { Ok(()) }.boxed()
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            let until = Instant::now() + limit;
            self.closed.store(true, Ordering::Relaxed);
            self.core.closing.cancel();
            self.core.tasks.close();
            // A broker that blocks publishers takes nothing more: waiting for it would be in vain.
            let lanes = self.lanes();
            let unsettled = || lanes.iter().map(|lane| lane.unsettled()).sum::<usize>();
            let flush = async {
                while unsettled() > 0 && self.publishing.blocked().is_none() && self.publishing.is_up() {
                    tokio::time::sleep(LOOK).await;
                }
                self.core.tasks.wait().await;
            };
            let _ = tokio::time::timeout_at(until, flush).await;
            let lost = unsettled();
            self.ended.cancel();
            let grace = until.saturating_duration_since(Instant::now());
            tokio::join!(self.publishing.close(grace), self.core.consuming.close(grace));
            self.board.close();
            if lost == 0 {
                return Ok(());
            }
            Err(TransportError::may_have_run(
                TransportErrorKind::Timeout,
                format!("{lost} messages were not sent to the broker, or not confirmed by it, before it was closed"),
            ))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
