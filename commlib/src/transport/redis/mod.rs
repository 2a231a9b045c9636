//! Redis: work queues are lists, topics are channels.
//!
//! A node has up to four connections and one more per consumer, each owned by one task: the [`writer`] for all
//! that goes out, the [`inbox`] for replies, one for all subscriptions ([`pubsub`]), and a blocking one per
//! [`consumer`]. Each comes back by itself. Needs Redis 6.2 or later, or what speaks its protocol.

mod begin;
mod clock;
mod connection;
mod consumer;
mod delivery;
mod encode;
mod fault;
#[cfg(fuzzing)]
pub mod fuzz;
mod group;
mod handle;
mod inbox;
mod jobs;
mod kept;
mod outbox;
mod pop;
mod presence;
mod pubsub;
mod push;
mod resp;
mod responder;
mod salvage;
mod scripts;
mod session;
mod standing;
mod stream;
mod stream_claims;
mod stream_entry;
mod stream_held;
mod stream_id;
mod stream_letters;
mod stream_member;
mod stream_scripts;
mod stream_watch;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod words;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::connection::Endpoint;
use self::handle::Handle;
use self::inbox::{Calls, Inbox};
use self::jobs::Job;
use self::pubsub::Command;
use self::push::Origin;
use self::writer::{Waiting, Writer};
use super::{
    Accepted, BrokerUrl, Capabilities, Claim, Claimed, ConnectionState, ConsumeSpec, Consumer, DeadLetter,
    Disposal, Group, PublishOptions, Published, Removal, ReplySink, Request, SubscribeSpec, Subscription,
    Transport, TransportError, TransportErrorKind, TransportOptions, durable,
};
use crate::address::{Address, Pattern};
use crate::envelope::{Dialect, Encoded, Envelope, commlib_py, native};
use crate::error::ConnectError;
use crate::limits::{HARD_HEADER_BYTES, QUEUE_LENGTH};

/// Requests that wait in one work queue.
const QUEUE_LIMIT: i64 = QUEUE_LENGTH as i64;
/// A list outlives the time to live of its last request by this, so that its server can answer "too late".
const GRACE: Duration = Duration::from_secs(5);
/// What an envelope has around a body of the largest size.
const ENVELOPE: usize = 32 * 1024 + 2 * HARD_HEADER_BYTES;

/// Connects, or starts to.
pub(crate) async fn connect(
    url: &BrokerUrl,
    options: TransportOptions,
) -> Result<Arc<dyn Transport>, ConnectError> {
    let transport: Arc<dyn Transport> = start(url, options).await?;
    Ok(transport)
}

async fn start(url: &BrokerUrl, options: TransportOptions) -> Result<Arc<RedisTransport>, ConnectError> {
    let endpoint = Endpoint::new(
        url,
        &options.tls,
        options.connect_timeout,
        options.node_id.clone(),
        options.limits.body_in.saturating_add(ENVELOPE),
    )?;
    let endpoint = Arc::new(endpoint);
    let (handle, jobs) = Handle::new();
    let ready = if options.lazy {
        None
    } else {
        let ready = timeout(
            options.connect_timeout,
            writer::open(&endpoint, &handle.clock, false),
        )
        .await;
        let ready = ready.unwrap_or(Err(connection::OpenError::Timeout));
        Some(ready.map_err(|error| endpoint.connect_error(error))?)
    };
    let stop = CancellationToken::new();
    let (state, watched) = watch::channel(ConnectionState::Connecting {
        attempt: 0,
        reason: String::new(),
    });
    let (commands, wishes) = mpsc::unbounded_channel();
    let calls = (options.dialect == Dialect::CommlibPy)
        .then(|| Arc::new(Calls::new(Arc::clone(&handle), &options.node_id)));
    let waiting = Waiting {
        sink: Arc::default(),
        calls,
    };
    if ready.is_some() {
        // The writer says so again; who looks before its task has run is to see it too.
        handle.connected();
        state.send_replace(ConnectionState::Connected { generation: 1 });
    }
    let writer = Writer {
        endpoint: Arc::clone(&endpoint),
        handle: Arc::clone(&handle),
        jobs,
        state,
        stop: stop.clone(),
        waiting: waiting.clone(),
        wants_master: false,
    };
    let writer = tokio::spawn(writer.run(ready).boxed());
    let life: Life = Arc::new(stop.clone().drop_guard());
    Ok(Arc::new(RedisTransport {
        reply_list: inbox::reply_list(&options.node_id),
        endpoint,
        handle,
        options,
        state: watched,
        waiting,
        commands,
        wishes: Mutex::new(Some(wishes)),
        numbers: AtomicU64::new(0),
        writer: Mutex::new(Some(writer)),
        persistence: stream::Persistence::default(),
        receiving: stop.child_token(),
        life,
        stop,
    }))
}

/// Ends all tasks when the transport and all that was made by it are gone.
type Life = Arc<DropGuard>;

struct RedisTransport {
    endpoint: Arc<Endpoint>,
    handle: Arc<Handle>,
    options: TransportOptions,
    state: watch::Receiver<ConnectionState>,
    waiting: Waiting,
    reply_list: String,
    commands: mpsc::UnboundedSender<Command>,
    /// Taken by the task of the subscriptions, which starts with the first of them.
    wishes: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    /// Numbers consumers and subscriptions.
    numbers: AtomicU64,
    writer: Mutex<Option<tokio::task::JoinHandle<()>>>,
    persistence: stream::Persistence,
    /// Ends all tasks but the writer.
    receiving: CancellationToken,
    /// Ends all tasks.
    stop: CancellationToken,
    life: Life,
}

impl fmt::Debug for RedisTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTransport")
            .field("endpoint", &self.endpoint)
            .field("state", &*self.state.borrow())
            .field(
                "refused_replies",
                &self.handle.refused_replies.load(Ordering::Relaxed),
            )
            .finish_non_exhaustive()
    }
}

impl RedisTransport {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The bytes of a request.
    fn encode(&self, message: &mut Envelope, reply_to: Option<&str>) -> Encoded {
        match self.options.dialect {
            Dialect::CommlibPy => commlib_py::encode_request(message, reply_to.unwrap_or_default()).into(),
            Dialect::Native => self.encode_apart(message, reply_to),
        }
    }

    /// Queues a message for a topic.
    fn queue_publish(
        &self,
        channel: Address,
        message: &mut Envelope,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
    ) {
        let body = match self.options.dialect {
            Dialect::CommlibPy => Encoded {
                body: message.data.clone(),
                ..Encoded::default()
            },
            Dialect::Native => self.encode_apart(message, None),
        };
        self.handle.queue(Job::Publish { channel, body, done });
    }

    fn encode_native(&self, message: &mut Envelope, reply_to: Option<&str>) -> Vec<u8> {
        self.handle.clock.stamp(&mut message.meta);
        native::encode(message, reply_to)
    }

    fn encode_apart(&self, message: &mut Envelope, reply_to: Option<&str>) -> Encoded {
        self.handle.clock.stamp(&mut message.meta);
        native::encode_apart(message, reply_to)
    }

    /// Runs what has to be answered within the limit for operations.
    async fn limited<T>(
        &self,
        what: impl fmt::Display,
        job: impl FnOnce(oneshot::Sender<Result<T, TransportError>>) -> Job,
    ) -> Result<T, TransportError> {
        self.handle.check(&what)?;
        self.handle
            .outcome(self.options.operation_timeout, what, |done| {
                self.handle.queue(job(done))
            })
            .await
    }

    /// Keeps a request without a reply.
    fn keep(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        Box::pin(kept::send(self, request.address, request.message))
    }

    /// Becomes a member of a group that the broker keeps.
    fn join(
        &self,
        spec: SubscribeSpec,
        group: Group,
    ) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        Box::pin(async move {
            match spec.durable.clone() {
                Some(durable) if !self.handle.is_closed() => {
                    stream_member::join(self, spec, group, &durable).await
                }
                _ => Err(TransportError::closed()),
            }
        })
    }

    async fn close_now(&self, limit: Duration) -> Result<(), TransportError> {
        let deadline = Instant::now() + limit;
        self.handle.close();
        self.receiving.cancel();
        if let Some(calls) = &self.waiting.calls {
            calls.forget_all();
        }
        // Answers come in order: with this one, everything before it is at the broker.
        let connected = self.state.borrow().is_connected();
        let flushed = if connected {
            let wake = inbox::wake_list(&self.options.node_id);
            let mut words: Vec<&[u8]> = vec![b"TIME"];
            if self.waiting.sink.get().is_some() {
                words = vec![b"DEL", self.reply_list.as_bytes()];
                words.extend(self.waiting.calls.as_ref().map(|_| wake.as_bytes()));
            }
            match self.handle.ask(limit, "flush", &words).await {
                // Who may not have replies has none, and this is an answer too.
                Err(error) if error.kind != TransportErrorKind::Forbidden => Err(error),
                _ => Ok(()),
            }
        } else {
            Ok(())
        };
        self.stop.cancel();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let _ = tokio::time::timeout_at(deadline, writer).await;
        }
        flushed
    }
}

impl Transport for RedisTransport {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // Servers that run commlib-py leave no sign of their presence.
            no_responders: self.waiting.calls.is_none(),
            groups: true,
            give_back: true,
            // A work queue that nobody asks any more does; a single request in a busy one does not.
            expires: false,
            reconnects: true,
        }
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>> {
        // Replies wait in their list until it is taken from, so nothing has to be up before the first request.
        let result = if self.handle.is_closed() {
            Err(TransportError::closed())
        } else if self.waiting.sink.set(Arc::clone(&sink)).is_ok() {
            let inbox = Inbox {
                endpoint: Arc::clone(&self.endpoint),
                handle: Arc::clone(&self.handle),
                sink,
                node_id: self.options.node_id.clone(),
                max_body: self.options.limits.body_in,
                waiting: self.waiting.clone(),
                stop: self.receiving.clone(),
            };
            tokio::spawn(inbox.run().boxed());
            Ok(())
        } else {
            Err(TransportError::did_not_run(
                TransportErrorKind::Protocol,
                "the inbox is open already",
            ))
        };
        Box::pin(std::future::ready(result))
    }

    fn request(&self, request: Request) -> Result<(), TransportError> {
        let Request {
            address,
            mut message,
            time_to_live,
            durable,
        } = request;
        if let Err(error) = self.handle.check("") {
            return Err(match error.kind {
                TransportErrorKind::Disconnected => fault::disconnected(&format!("send to `{address}`")),
                _ => error,
            });
        }
        let (Some(sink), Some(id)) = (self.waiting.sink.get(), &message.meta.id) else {
            return Err(TransportError::did_not_run(
                TransportErrorKind::Protocol,
                "a request has an id and follows the opening of the inbox",
            ));
        };
        if durable {
            if !durable::BUILT {
                return Err(durable::not_built());
            }
            let id = id.clone();
            kept::request(self, address, message, id, Arc::clone(sink));
            return Ok(());
        }
        let item = match &self.waiting.calls {
            None => self.encode(&mut message, Some(&self.reply_list)),
            Some(calls) => {
                let list = calls.add(message.meta.id.clone().unwrap_or_default());
                self.encode(&mut message, Some(&list))
            }
        };
        let id = message.meta.id.unwrap_or_default();
        let (time_to_live, origin) = (milliseconds(time_to_live), Origin::Call(id));
        self.handle
            .push(address, item, time_to_live, origin, &self.waiting)
    }

    fn forget(&self, id: &str) -> bool {
        if let Some(calls) = &self.waiting.calls {
            calls.forget(id);
        }
        // Requests are written as soon as they are queued; to know of each whether it was would cost all of them.
        false
    }

    fn send(&self, mut request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if request.durable {
            return self.keep(request);
        }
        Box::pin(async move {
            let reply_to = self.waiting.calls.as_ref().map(|_| inbox::call_list());
            if let Some(list) = &reply_to {
                // Servers that run commlib-py answer every request; nobody reads this answer.
                self.handle.check(format!("send to `{}`", request.address))?;
                inbox::bury(&self.handle, vec![list.clone()]);
            }
            let item = self.encode(&mut request.message, reply_to.as_deref());
            let what = format!("send to `{}`", request.address);
            self.handle.check(&what)?;
            let outcome = self.handle.outcome(self.options.operation_timeout, what, |done| {
                let time_to_live = milliseconds(request.time_to_live);
                let origin = Origin::Send(done);
                // The outcome tells of a failure, too.
                let _ = self
                    .handle
                    .push(request.address, item, time_to_live, origin, &self.waiting);
            });
            outcome.await
        })
    }

    fn publish(
        &self,
        address: Address,
        mut message: Envelope,
        options: PublishOptions,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        if let Some(topic) = options.durable {
            if !durable::BUILT {
                return durable::never_built();
            }
            return Box::pin(async move {
                let what = format!("publish to `{address}`");
                stream::append(self, &what, &topic, address, message).await
            });
        }
        if let Err(error) = self.handle.check(PublishTo(&address)) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (done, outcome) = oneshot::channel();
        self.queue_publish(address, &mut message, done);
        // No limit of its own: a connection whose broker does not answer ends within seconds, and all that wait with it.
        Box::pin(async { outcome.await.unwrap_or_else(|_| Err(TransportError::closed())) })
    }

    fn publish_now(&self, address: &Address, mut message: Envelope, options: &PublishOptions) -> Published {
        // Where it can't be sent now, `publish` says why.
        if self.handle.check("").is_err() {
            return Published::Waits(message);
        }
        // Should it be sent again, its time is turned again.
        let timestamp = message.meta.timestamp;
        let (done, outcome) = oneshot::channel();
        match &options.durable {
            None => self.queue_publish(address.clone(), &mut message, done),
            Some(topic) if durable::BUILT => {
                let Some(durability) = self.persistence.known(&self.handle) else {
                    return Published::Waits(message);
                };
                stream::queue(self, topic, address.clone(), &mut message, durability, done);
            }
            Some(_) => return Published::Waits(message),
        }
        message.meta.timestamp = timestamp;
        Published::Sent(outcome, message)
    }

    fn dead_letters(
        &self,
        group: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeadLetter>, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        let group = group.to_owned();
        Box::pin(async move { stream_letters::list(self, &group, limit).await })
    }

    fn dispose(
        &self,
        group: &str,
        id: &str,
        disposal: Disposal,
    ) -> BoxFuture<'_, Result<bool, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        let (group, id) = (group.to_owned(), id.to_owned());
        Box::pin(async move { stream_letters::dispose(self, &group, &id, disposal).await })
    }

    fn remove_group(
        &self,
        topic: &Pattern,
        group: &str,
        pattern: &Pattern,
    ) -> BoxFuture<'_, Result<Removal, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        let place = stream::Place::new(topic, group, pattern);
        Box::pin(async move { stream_member::remove(self, &place).await })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        Box::pin(kept::claim(self, claim))
    }

    fn conclude(&self, claim: Claim, answer: Option<Envelope>) -> BoxFuture<'_, Result<(), TransportError>> {
        if !durable::BUILT {
            return durable::never_built();
        }
        Box::pin(kept::conclude(self, claim, answer))
    }

    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(self.consume_now(spec))
    }

    fn subscribe(
        &self,
        mut spec: SubscribeSpec,
    ) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        if spec.durable.is_some()
            && let Some(group) = spec.group.take()
        {
            return self.join(spec, group);
        }
        Box::pin(self.subscribe_now(spec))
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(self.close_now(limit))
    }
}

/// What a publish is to do, for errors: most have none, so it is not put into words before.
struct PublishTo<'a>(&'a Address);

impl fmt::Display for PublishTo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publish to `{}`", self.0)
    }
}

/// How long a list is to live for a request with this time to live.
fn milliseconds(time_to_live: Duration) -> i64 {
    i64::try_from(time_to_live.saturating_add(GRACE).as_millis())
        .unwrap_or(i64::MAX)
        .min(1 << 50)
}

#[cfg(test)]
mod tests;
