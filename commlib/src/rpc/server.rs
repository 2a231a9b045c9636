//! Serving: the settings of an RPC server, its start and its end.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::RpcService;
use super::dispatch::Dispatcher;
use super::durable::Settings;
use super::durable_call::check_dialect;
use crate::address::{Address, Pattern};
use crate::error::NodeError;
use crate::limits::{FOREVER, after};
use crate::node::{Node, cancel_topic};
use crate::runtime::serving::{Serving, Source};
use crate::transport::{ConsumeSpec, RequestSink, SubscribeSpec, TopicSink};

/// A running server or handler, as the node keeps it.
pub(crate) type Server = Arc<Serving>;

/// How long a drain may take unless the handle is told otherwise.
const DRAIN: Duration = Duration::from_secs(30);

/// Settings of an RPC server. Awaiting it starts the server and resolves when it takes requests.
///
/// # Errors
/// [`NodeError`] when the broker refuses, or does not answer within
/// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout); `invalid_argument` when this node serves a
/// contract of the same name with other methods, some of which both have.
#[must_use = "a server does not start until it is awaited"]
pub struct ServeRpc {
    node: Node,
    service: Arc<dyn RpcService>,
    concurrency: u32,
    auto_ack: bool,
    max_wait: Option<Duration>,
    durable: Settings,
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
            concurrency: node.config().limits.concurrency,
            auto_ack: false,
            max_wait: None,
            durable: Settings::default(),
        }
    }

    /// How many requests run at once, at least 1. Default [`Limits::concurrency`](crate::Limits::concurrency), 64. More wait at
    /// the broker, or go to other servers. Each durable method has as many places of its own.
    pub fn concurrency(mut self, requests: u32) -> Self {
        self.concurrency = requests.max(1);
        self
    }

    /// Refuses requests that waited longer than this for their turn, with `resource_exhausted`: they did not run. Default:
    /// requests wait as long as their caller does.
    ///
    /// With more load than the server can do, a queue fills up to 10,000 requests, and then each call that is answered has
    /// waited for all of them. With a limit it has waited about that long, and the others learn soon that they should
    /// come back later. The time counts from the sending; on RabbitMQ by the clocks of both hosts, so leave room for what
    /// they may differ.
    ///
    /// While requests are too old, a server on RabbitMQ takes up to 256 more of them at once from the queue of each method
    /// (about 16 MiB of bodies, and 8 requests in any case), so that refusing them does not wait for handlers. What it took
    /// so and what is young enough waits there for its turn, where no other server gets it. Refusing costs the
    /// broker time all the same, so nodes that are refused send less ([`Limits::refusals`](crate::Limits::refusals)): at ten
    /// times its load a server did 74 to 124 % of its peak with a limit of 1 s or 2 s, on two cores that broker and callers
    /// shared (`scripts/bench`, overload).
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = Some(limit);
        self
    }

    /// Lets RabbitMQ forget a request when it sends it, in place of when it was answered. That costs the least.
    ///
    /// Requests that were taken are then lost with a server that dies: their callers hear nothing before the deadline,
    /// also where the method is idempotent. The broker sends what it has without regard to
    /// [`concurrency`](Self::concurrency), to one server as to another. Beside those that run, 16 for each of them may
    /// wait (at least 64, at most 16,384, and 64 MiB of bodies); more are refused at once with `resource_exhausted`, and
    /// did not run. Those that wait when the server shuts down are refused with `unavailable`.
    ///
    /// Redis and the in-process bus take requests off the queue anyway: there it changes nothing.
    pub fn auto_ack(mut self) -> Self {
        self.auto_ack = true;
        self
    }

    /// How often a request to a durable method is delivered at most, at least once: to a handler that panics, or whose
    /// process ends meanwhile. Then it becomes a dead letter, and its caller, should it still wait, gets `internal`. What a
    /// handler returns is an answer, errors too. Default 5.
    pub fn attempts(mut self, deliveries: u32) -> Self {
        self.durable.retries.attempts = deliveries.max(1);
        self
    }

    /// How long a request to a durable method rests before it is handled again: `least` the first time, each time twice as
    /// long, up to `most`. Default 1 s to 60 s. It rests in the server that is going to handle it, where it takes one of
    /// the places.
    pub fn retry_delay(mut self, least: Duration, most: Duration) -> Self {
        self.durable.retries.least = least;
        self.durable.retries.most = most.max(least);
        self
    }

    /// How long the answer to a request to a durable method is remembered, for others with the same idempotency key.
    /// Default 10 minutes.
    ///
    /// On Redis the broker remembers it, and on the in-process bus the bus; all servers share what is remembered. On
    /// RabbitMQ only the node does that served it: another server, or one that was started again, knows nothing of the key,
    /// and runs the method for it once more. There, and on the in-process bus, the latest 10,000 keys are remembered at most,
    /// and 64 MiB of answers.
    pub fn remember(mut self, window: Duration) -> Self {
        self.durable.window = window.clamp(Duration::from_millis(1), FOREVER);
        self
    }

    async fn start(self) -> Result<ServerHandle, NodeError> {
        self.node.check_open()?;
        let descriptor = self.service.descriptor();
        let mut names: Vec<_> = descriptor.methods.iter().map(|method| method.name).collect();
        names.sort_unstable();
        let serving = Serving::of_methods(descriptor.name, names);
        self.node.check_contract(&serving)?;
        let dispatcher = Arc::new(Dispatcher::new(&self.node, self.service, &serving, self.max_wait));
        let deadline = Instant::now() + self.node.config().operation_timeout;
        let bad_name = |reason: String| NodeError::Address {
            text: descriptor.name.to_owned(),
            reason,
        };
        let name = Address::new(descriptor.name).map_err(|error| bad_name(error.to_string()))?;
        let name = self.node.qualify(&name)?;
        let pattern = cancel_topic(name.as_str()).ok_or_else(|| bad_name("it is too long".to_owned()))?;
        let methods = |durable: bool| descriptor.methods.iter().filter(move |it| it.durable == durable);
        if let Some(method) = methods(true).next() {
            check_dialect(&self.node, &method.address)?;
        }
        let addresses = methods(false)
            .map(|method| self.node.qualify(&method.address))
            .collect::<Result<Vec<_>, _>>()?;
        let transport = Arc::clone(self.node.transport());
        let subscription = self
            .node
            .when_connected(deadline, || {
                let spec = SubscribeSpec {
                    pattern: Pattern::from(pattern.clone()),
                    group: None,
                    durable: None,
                    max_body: 1024,
                    sink: Arc::clone(&dispatcher) as Arc<dyn TopicSink>,
                };
                let transport = Arc::clone(&transport);
                async move { transport.subscribe(spec).await }.boxed()
            })
            .await?;
        serving.hear_of_callers(subscription);
        self.durable
            .start(&self.node, &name, dispatcher.server(), self.concurrency)
            .await?;
        if addresses.is_empty() && methods(true).next().is_some() {
            self.node.register(Arc::clone(&serving));
            return Ok(ServerHandle { serving });
        }
        let permits = Arc::new(Semaphore::new(self.concurrency as usize));
        let consumer = self
            .node
            .when_connected(deadline, || {
                let spec = ConsumeSpec {
                    service: name.to_string(),
                    addresses: addresses.clone(),
                    permits: Arc::clone(&permits),
                    concurrency: self.concurrency,
                    auto_ack: self.auto_ack,
                    max_wait: self.max_wait,
                    max_body: self.node.config().limits.body_in,
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
        self.end(limit).await
    }

    /// Boxed here, as what an `async fn` awaits is compiled once more in every crate that awaits it.
    fn end(&self, limit: Duration) -> BoxFuture<'_, Result<(), NodeError>> {
        self.serving.shutdown(after(Instant::now(), limit)).boxed()
    }
}
