//! Serving: takes requests, decides whether they run, runs them, and gives each exactly one answer.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{MethodDescriptor, RequestContext, RpcService};
use crate::address::{Address, Pattern};
use crate::envelope::{Envelope, Meta};
use crate::error::{Execution, Failure, NodeError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Next, Outcome, panicked};
use crate::node::{Node, cancel_topic, wire_error};
use crate::runtime::now_micros;
use crate::runtime::scope::Scope;
use crate::runtime::serving::{Serving, Source};
use crate::trace::TraceContext;
use crate::transport::{
    ConsumeSpec, Delivery, RequestSink, Responder, SubscribeSpec, Taken, TopicMessage, TopicSink,
};

/// A running server or handler, as the node keeps it.
pub(crate) type Server = Arc<Serving>;

/// How many ids of cancelled requests that have not come yet are remembered.
const EARLY_CANCELS: usize = 1024;

/// How long a drain may take unless the handle is told otherwise.
const DRAIN: Duration = Duration::from_secs(30);

/// Settings of an RPC server. Awaiting it starts the server and resolves when it takes requests.
///
/// # Errors
/// [`NodeError`] when the broker refuses, or does not answer within
/// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout).
#[must_use = "a server does not start until it is awaited"]
pub struct ServeRpc {
    node: Node,
    service: Arc<dyn RpcService>,
    concurrency: u32,
}

impl fmt::Debug for ServeRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeRpc")
            .field("service", &self.service.descriptor().name)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl ServeRpc {
    pub(crate) fn new(node: &Node, service: Arc<dyn RpcService>) -> Self {
        Self {
            node: node.clone(),
            service,
            concurrency: 64,
        }
    }

    /// How many requests run at once, at least 1. Default 64. More wait at the broker, or go to other servers.
    pub fn concurrency(mut self, requests: u32) -> Self {
        self.concurrency = requests.max(1);
        self
    }

    async fn start(self) -> Result<ServerHandle, NodeError> {
        self.node.check_open()?;
        let descriptor = self.service.descriptor();
        let serving = Serving::new(descriptor.name);
        let dispatcher = Arc::new(Dispatcher {
            node: self.node.clone(),
            service: self.service,
            serving: Arc::clone(&serving),
            running: Arc::default(),
        });
        let deadline = Instant::now() + self.node.config().operation_timeout;
        let bad_name = |reason: String| NodeError::Address {
            text: descriptor.name.to_owned(),
            reason,
        };
        let name = Address::new(descriptor.name).map_err(|error| bad_name(error.to_string()))?;
        let name = self.node.qualify(&name)?;
        let pattern = cancel_topic(name.as_str()).ok_or_else(|| bad_name("it is too long".to_owned()))?;
        let addresses = descriptor
            .methods
            .iter()
            .map(|method| self.node.qualify(&method.address))
            .collect::<Result<Vec<_>, _>>()?;
        let transport = Arc::clone(self.node.transport());
        let subscription = self
            .node
            .when_connected(deadline, || {
                let spec = SubscribeSpec {
                    pattern: Pattern::from(pattern.clone()),
                    group: None,
                    max_body: 1024,
                    sink: Arc::clone(&dispatcher) as Arc<dyn TopicSink>,
                };
                let transport = Arc::clone(&transport);
                async move { transport.subscribe(spec).await }.boxed()
            })
            .await?;
        serving.add(Source::Subscription(subscription));
        let permits = Arc::new(Semaphore::new(self.concurrency as usize));
        let consumer = self
            .node
            .when_connected(deadline, || {
                let spec = ConsumeSpec {
                    service: name.to_string(),
                    addresses: addresses.clone(),
                    permits: Arc::clone(&permits),
                    concurrency: self.concurrency,
                    max_body: self.node.config().max_body,
                    sink: Arc::clone(&dispatcher) as Arc<dyn RequestSink>,
                };
                let transport = Arc::clone(&transport);
                async move { transport.consume(spec).await }.boxed()
            })
            .await?;
        serving.add(Source::Consumer(consumer));
        self.node.register(Arc::clone(&serving));
        Ok(ServerHandle { serving })
    }
}

impl IntoFuture for ServeRpc {
    type Output = Result<ServerHandle, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

/// A running server or topic handler. Dropping the handle leaves it running until the node shuts down.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    serving: Arc<Serving>,
}

impl ServerHandle {
    pub(crate) fn new(serving: Arc<Serving>) -> Self {
        Self { serving }
    }

    /// Stops taking, finishes what was taken, and hands the replies to the broker, within 30 s.
    ///
    /// # Errors
    /// When something did not finish in time: it was told through its context, then ended.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        self.shutdown_within(DRAIN).await
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub async fn shutdown_within(&self, limit: Duration) -> Result<(), NodeError> {
        self.serving.shutdown(Instant::now() + limit).await
    }
}

/// Takes requests from the transport and cancellations from the service's topic.
struct Dispatcher {
    node: Node,
    service: Arc<dyn RpcService>,
    serving: Arc<Serving>,
    running: Arc<Mutex<Running>>,
}

/// The requests that run, and the cancellations that came before their request.
#[derive(Default)]
struct Running {
    by_id: HashMap<String, CancellationToken>,
    canceled_early: HashMap<String, Instant>,
}

impl RequestSink for Dispatcher {
    fn deliver(&self, delivery: Delivery) {
        let Delivery {
            address,
            taken,
            redelivered,
            responder,
        } = delivery;
        let Some(method) = self.service.descriptor().methods.get(address).copied() else {
            return refuse(
                responder,
                &Status::new(StatusCode::Unimplemented, "no such method"),
            );
        };
        let message = match taken {
            Taken::Message(message) => message,
            Taken::Malformed(error) => {
                tracing::warn!(address = %method.address, %error, "refused a request that can't be read");
                return refuse(
                    responder,
                    &Status::new(StatusCode::InvalidArgument, error.to_string()),
                );
            }
            Taken::TooLarge { size } => {
                let limit = self.node.config().max_body;
                let text = format!("the request has {size} bytes, over the server's limit of {limit}");
                tracing::warn!(address = %method.address, size, limit, "refused a request over the limit");
                return refuse(responder, &Status::new(StatusCode::ResourceExhausted, text));
            }
        };
        match self.admit(method, message, redelivered) {
            Ok(request) => {
                self.serving
                    .tasks
                    .spawn(request.run(Arc::clone(&self.running), responder));
            }
            Err(status) => refuse(responder, &status),
        }
    }
}

/// Answers a request that does not run.
fn refuse(responder: Box<dyn Responder>, status: &Status) {
    if responder.wants_reply() {
        responder.reply(Envelope {
            meta: Meta {
                timestamp: Some(now_micros()),
                error: Some(status.into()),
                ..Meta::default()
            },
            ..Envelope::default()
        });
    } else {
        tracing::debug!(%status, "a request that can't be answered was not run");
        responder.finish();
    }
}

impl Dispatcher {
    /// Decides whether a request runs, and registers it for cancellation.
    fn admit(
        &self,
        method: &'static MethodDescriptor,
        message: Envelope,
        redelivered: bool,
    ) -> Result<RunningRequest, Status> {
        if redelivered && !method.idempotent {
            return Err(Status::new(
                StatusCode::Unavailable,
                "an earlier delivery of this request may have run, so it was not run again",
            ));
        }
        let left = time_left(&message.meta, self.node.config().call_timeout).ok_or_else(|| {
            Status::new(
                StatusCode::DeadlineExceeded,
                "the request came after its deadline",
            )
            .with_execution(Execution::DidNotRun)
        })?;
        let canceled = self.serving.canceled.child_token();
        if let Some(id) = &message.meta.id {
            let mut running = self.running.lock();
            if running.canceled_early.remove(id).is_some() {
                return Err(
                    Status::new(StatusCode::Canceled, "the caller gave up before the request ran")
                        .with_execution(Execution::DidNotRun),
                );
            }
            running.by_id.insert(id.clone(), canceled.clone());
        }
        Ok(RunningRequest {
            node: self.node.clone(),
            method,
            service: Arc::clone(&self.service),
            serving: Arc::clone(&self.serving),
            deadline: Instant::now() + left,
            message,
            canceled,
            redelivered,
        })
    }
}

/// How long the caller still waits: what it said, less the time that passed since. A clock that runs ahead or behind
/// so far that the request came before it was sent counts as in step. `None` when the time is over.
fn time_left(meta: &Meta, default: Duration) -> Option<Duration> {
    let timeout = meta.timeout_ms.map_or(default, Duration::from_millis);
    let (Some(_), Some(sent)) = (meta.timeout_ms, meta.timestamp) else {
        return Some(timeout);
    };
    let age = Duration::from_micros(now_micros().saturating_sub(sent));
    timeout.checked_sub(age).filter(|left| !left.is_zero())
}

impl TopicSink for Dispatcher {
    fn message(&self, message: TopicMessage) {
        #[derive(serde::Deserialize)]
        struct Cancel {
            id: String,
        }
        let Ok(cancel) = crate::codec::decode::<Cancel>(&message.message.data) else {
            return tracing::debug!("ignored a malformed cancellation");
        };
        let mut running = self.running.lock();
        match running.by_id.get(&cancel.id) {
            Some(token) => token.cancel(),
            None if cancel.id.len() == crate::runtime::id::LEN => {
                let now = Instant::now();
                let keep = Duration::from_secs(60);
                if running.canceled_early.len() >= EARLY_CANCELS {
                    running
                        .canceled_early
                        .retain(|_, at| now.duration_since(*at) < keep);
                }
                if running.canceled_early.len() < EARLY_CANCELS {
                    running.canceled_early.insert(cancel.id, now);
                }
            }
            None => {}
        }
    }

    fn gap(&self) {
        // Cancellations are hints: a missed one costs work, never correctness.
    }

    fn dropped(&self, reason: &str) {
        tracing::debug!(reason, "dropped a cancellation");
    }
}

/// One admitted request.
struct RunningRequest {
    node: Node,
    method: &'static MethodDescriptor,
    service: Arc<dyn RpcService>,
    serving: Arc<Serving>,
    deadline: Instant,
    message: Envelope,
    canceled: CancellationToken,
    redelivered: bool,
}

impl RunningRequest {
    /// Runs the handler behind the middleware and answers.
    async fn run(self, running: Arc<Mutex<Running>>, responder: Box<dyn Responder>) {
        if self.serving.canceled.is_cancelled() {
            // The time for draining is over and this one has not begun: another server can take it.
            self.forget(&running);
            return responder.give_back();
        }
        let address = &self.method.address;
        let trace = TraceContext::from_headers(&self.message.meta.headers);
        let span = tracing::info_span!("commlib.handle", %address, trace_id = tracing::field::Empty);
        if let Some(trace) = &trace {
            span.record("trace_id", trace.trace_id());
        }
        let kind = if self.method.oneway {
            Kind::Oneway
        } else {
            Kind::Call
        };
        let invocation = Invocation::new(
            kind,
            address.clone(),
            self.message.meta.headers.clone(),
            self.message.data.clone(),
            self.deadline,
        );
        let scope = Scope {
            deadline: Some(self.deadline),
            trace,
        };
        let chain = Next::new(&self.node.config().server_middleware, &self);
        let work = scope
            .enter(AssertUnwindSafe(chain.run(invocation)).catch_unwind())
            .instrument(span);
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|panic| Err(panicked(address.as_str(), &*panic).into())),
            () = self.serving.ended.cancelled() => {
                Err(Status::new(StatusCode::Unavailable, "the server shut down before the request was finished").into())
            }
        };
        self.forget(&running);
        // Where the caller said how long it waits, what comes later is no success, even if it would be the first to see
        // it: the handler may have stopped because of the deadline.
        let late = self.message.meta.timeout_ms.is_some() && self.deadline <= Instant::now();
        let outcome = if late && outcome.is_ok() {
            let text = format!("the handler of `{address}` finished after the deadline");
            Err(Status::new(StatusCode::DeadlineExceeded, text).into())
        } else {
            outcome
        };
        self.answer(responder, outcome);
    }

    fn forget(&self, running: &Mutex<Running>) {
        if let Some(id) = &self.message.meta.id {
            running.lock().by_id.remove(id);
        }
    }

    fn answer(&self, responder: Box<dyn Responder>, outcome: Outcome) {
        let (address, limit) = (&self.method.address, self.node.config().max_body);
        let outcome = match outcome {
            Ok(body) if body.len() > limit => {
                let size = body.len();
                tracing::error!(%address, size, limit, "a reply is over the limit and was not sent");
                let text = format!("the reply has {size} bytes, over the server's limit of {limit}");
                Err(Status::new(StatusCode::ResourceExhausted, text)
                    .with_execution(Execution::Failed)
                    .into())
            }
            outcome => outcome,
        };
        if self.method.oneway || !responder.wants_reply() {
            if let Err(failure) = outcome {
                tracing::warn!(%address, error = %describe(&failure), "a request without a reply failed");
            }
            return responder.finish();
        }
        let mut reply = Envelope {
            meta: Meta {
                timestamp: Some(now_micros()),
                ..Meta::default()
            },
            ..Envelope::default()
        };
        match outcome {
            Ok(body) => reply.data = body,
            Err(failure) => reply.meta.error = Some(wire_error(failure)),
        }
        responder.reply(reply);
    }
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::App(error) => error.message.clone(),
        Failure::Status(status) => status.to_string(),
        Failure::Local(error) => error.to_string(),
    }
}

impl End for RunningRequest {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        async move {
            let context = RequestContext {
                node: self.node.clone(),
                address: invocation.address,
                id: self.message.meta.id.clone(),
                headers: invocation.headers,
                deadline: invocation.deadline,
                canceled: self.canceled.clone(),
                redelivered: self.redelivered,
            };
            self.service
                .call(self.method.name, &context, &invocation.body)
                .await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(timeout_ms: Option<u64>, age: i64) -> Meta {
        let timestamp = now_micros().saturating_add_signed(-age * 1000);
        Meta {
            timeout_ms,
            timestamp: Some(timestamp),
            ..Meta::default()
        }
    }

    #[test]
    fn the_deadline_counts_from_when_the_request_was_sent() {
        let default = Duration::from_secs(10);
        let left = time_left(&meta(Some(1000), 400), default).unwrap();
        assert!(
            left <= Duration::from_millis(600) && left > Duration::from_millis(500),
            "{left:?}"
        );
        assert_eq!(time_left(&meta(Some(1000), 1001), default), None);
        assert_eq!(time_left(&meta(Some(0), 0), default), None);
        assert_eq!(time_left(&meta(None, 60_000), default), Some(default));
        // From a clock that is an hour ahead.
        assert_eq!(
            time_left(&meta(Some(1000), -3_600_000), default),
            Some(Duration::from_secs(1))
        );
        assert!(
            time_left(
                &Meta {
                    timeout_ms: Some(u64::MAX),
                    timestamp: Some(0),
                    ..Meta::default()
                },
                default
            )
            .is_some()
        );
    }
}
