//! A node: one connection to a broker, and everything that is called, published, served and subscribed through it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::{Address, Pattern};
use crate::envelope::{APPLICATION, Dialect, Envelope, Meta, WireError};
use crate::error::{AppFailure, ConnectError, Execution, Failure, LocalError, NodeError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Middleware, Outcome, check_headers};
use crate::rpc::Server;
use crate::runtime::pending::{Outcome as CallOutcome, Pending};
use crate::runtime::{id, now_micros};
use crate::transport::{
    self, BrokerUrl, ConnectionState, ReplyRoute, Request, Transport, TransportError, TransportErrorKind,
    TransportOptions,
};

/// The environment variable that [`Node::from_env`] reads.
pub const URL_VARIABLE: &str = "COMMLIB_URL";

/// One connection to a broker. Cheap to clone; all clones are the same node.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commlib::Node;
/// use std::time::Duration;
///
/// let node = Node::connect("memory://").await?;
/// node.shutdown(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    pending: Arc<Pending>,
    inbox: OnceCell<()>,
    config: Config,
    servers: Mutex<Vec<Server>>,
    closed: CancellationToken,
    handle: Handle,
}

/// What a node was built with.
pub(crate) struct Config {
    pub(crate) call_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) max_body: usize,
    pub(crate) dialect: Dialect,
    pub(crate) namespace: Option<Address>,
    pub(crate) client_middleware: Vec<Arc<dyn Middleware>>,
    pub(crate) server_middleware: Vec<Arc<dyn Middleware>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("transport", &self.inner.transport)
            .field("in_flight", &self.inner.pending.len())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Connects to the broker of a URL with the default settings. See [`BrokerUrl`] for the schemes.
    ///
    /// # Errors
    /// [`ConnectError`] when the URL is wrong, or no broker lets this node in within 5 s. Use
    /// [`NodeBuilder::lazy`] to return at once and keep trying.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder().connect(url).await
    }

    /// Connects to the broker that the environment variable `COMMLIB_URL` names, `memory://` if it is not set.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self, ConnectError> {
        Self::builder().connect_from_env().await
    }

    /// Settings before connecting.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// Serves a contract: an RPC server or a topic handler. Awaiting the result starts it.
    ///
    /// What is served goes on until its handle is shut down or the node is; dropping the handle changes nothing.
    pub fn serve<S: Serve>(&self, contract: S) -> S::Builder {
        contract.serve_on(self)
    }

    /// The state of the connection, now and as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.transport.state()
    }

    /// Stops taking requests and messages, finishes what was taken, and closes the connection, within `limit`.
    ///
    /// Work that does not finish in time is told through its context, then ended; its callers get `unavailable`.
    /// Calls of this node that are still in flight end with an error. A second call does nothing.
    ///
    /// # Errors
    /// When something could not be finished or flushed in time.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), NodeError> {
        if self.inner.closed.is_cancelled() {
            return Ok(());
        }
        self.inner.closed.cancel();
        let deadline = Instant::now() + limit;
        let servers = std::mem::take(&mut *self.inner.servers.lock());
        let drained =
            futures_util::future::join_all(servers.iter().map(|server| server.shutdown(deadline))).await;
        // Half a second for the broker's goodbye, even when handlers used up all the time.
        let rest = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(500));
        let closed = self.inner.transport.close(rest).await;
        transport::ReplySink::lost(&*self.inner.pending, TransportError::closed_in_flight());
        drained.into_iter().collect::<Result<(), _>>()?;
        closed.map_err(|error| NodeError::Status(error.into()))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }

    pub(crate) fn check_open(&self) -> Result<(), LocalError> {
        if self.inner.closed.is_cancelled() {
            Err(LocalError::Closed)
        } else {
            Ok(())
        }
    }

    /// An address as it is at the broker.
    pub(crate) fn qualify(&self, address: &Address) -> Result<Address, NodeError> {
        address
            .within(self.inner.config.namespace.as_ref())
            .map_err(|error| NodeError::Address {
                text: address.to_string(),
                reason: format!("below the namespace, {error}"),
            })
    }

    /// A pattern as it is at the broker.
    pub(crate) fn qualify_pattern(&self, pattern: &Pattern) -> Result<Pattern, NodeError> {
        pattern
            .within(self.inner.config.namespace.as_ref())
            .map_err(|error| NodeError::Address {
                text: pattern.to_string(),
                reason: format!("below the namespace, {error}"),
            })
    }

    pub(crate) fn register(&self, server: Server) {
        let mut servers = self.inner.servers.lock();
        servers.retain(|server| !server.is_stopped());
        servers.push(server);
    }

    /// Waits for a connection, until the deadline.
    async fn connected(&self, deadline: Instant) -> Result<(), Status> {
        // A connection may be gone a moment before its state says so.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut state = self.inner.transport.state();
        let wait = async {
            loop {
                let reason = match &*state.borrow_and_update() {
                    ConnectionState::Connected { .. } => return Ok(()),
                    ConnectionState::Closed => return Err("the node is shut down".to_owned()),
                    ConnectionState::Connecting { reason, .. } => reason.clone(),
                    ConnectionState::Blocked { reason } => {
                        format!("the broker takes no messages now: {reason}")
                    }
                };
                match tokio::time::timeout_at(deadline, state.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err("the connection is gone".to_owned()),
                    Err(_) => return Err(reason),
                }
            }
        };
        wait.await.map_err(|reason| {
            Status::new(
                StatusCode::DeadlineExceeded,
                format!("no connection to the broker in time: {reason}"),
            )
            .with_execution(Execution::DidNotRun)
        })
    }

    async fn open_inbox(&self, deadline: Instant) -> Result<(), Status> {
        if self.inner.inbox.initialized() {
            return Ok(());
        }
        let open = self.inner.inbox.get_or_try_init(|| async {
            loop {
                let sink = Arc::clone(&self.inner.pending) as Arc<dyn transport::ReplySink>;
                match self.inner.transport.open_inbox(sink).await {
                    Err(error) if error.kind == TransportErrorKind::Disconnected => {
                        self.connected(deadline).await?
                    }
                    result => return result.map_err(Status::from),
                }
            }
        });
        match tokio::time::timeout_at(deadline, open).await {
            Ok(opened) => opened.map(|&()| ()),
            Err(_) => Err(Status::new(
                StatusCode::DeadlineExceeded,
                "the reply inbox could not be opened in time",
            )
            .with_execution(Execution::DidNotRun)),
        }
    }

    fn envelope(&self, id: String, invocation: &Invocation) -> Result<Envelope, Failure> {
        check_headers(&invocation.headers)?;
        let (size, limit) = (invocation.body.len(), self.inner.config.max_body);
        if size > limit {
            return Err(LocalError::TooLarge {
                what: "the body",
                size,
                limit,
            }
            .into());
        }
        let left = invocation.deadline.saturating_duration_since(Instant::now());
        Ok(Envelope {
            data: invocation.body.clone(),
            meta: Meta {
                id: Some(id),
                timestamp: Some(now_micros()),
                timeout_ms: (invocation.kind != Kind::Publish).then(|| whole_ms(left)),
                headers: invocation.headers.clone(),
                ..Meta::default()
            },
        })
    }

    async fn call(&self, invocation: Invocation) -> Outcome {
        let (address, deadline) = (&invocation.address, invocation.deadline);
        self.check_open()?;
        loop {
            self.open_inbox(deadline).await?;
            let unsent = match self.call_once(&invocation).await? {
                CallOutcome::Reply(reply) => return self.take_reply(reply),
                CallOutcome::Malformed(error) => return Err(LocalError::Decode(error.to_string()).into()),
                CallOutcome::Failed(error) => error,
            };
            // What certainly did not reach the broker waits for the next connection.
            if !is_unsent(&unsent) {
                return Err(Status::from(unsent).into());
            }
            tracing::debug!(%address, error = %unsent, "a request waits for a connection");
            self.connected(deadline).await?;
        }
    }

    /// Sends a request once and waits for how that ends.
    async fn call_once(&self, invocation: &Invocation) -> Result<CallOutcome, Failure> {
        let Some(call) = self.inner.pending.register() else {
            let limit = self.inner.pending.limit();
            let text = format!("{limit} calls are in flight already; see `NodeBuilder::max_in_flight`");
            return Err(Status::new(StatusCode::ResourceExhausted, text).into());
        };
        let deadline = invocation.deadline;
        let started = Instant::now();
        let request = Request {
            address: invocation.address.clone(),
            message: self.envelope(call.id().to_owned(), invocation)?,
            time_to_live: deadline.saturating_duration_since(started),
        };
        if let Err(error) = self.inner.transport.request(request) {
            return Ok(CallOutcome::Failed(error));
        }
        let mut sent = SentCall {
            node: self,
            address: &invocation.address,
            id: call.id().to_owned(),
            over: false,
        };
        match tokio::time::timeout_at(deadline, call).await {
            Ok(outcome) => {
                sent.over = true;
                Ok(outcome)
            }
            Err(_) => Err(sent.timed_out(deadline - started).into()),
        }
    }

    fn take_reply(&self, reply: Envelope) -> Outcome {
        match reply.meta.error {
            None => Ok(reply.data),
            Some(error) if error.code == APPLICATION => {
                Err(Failure::App(AppFailure::new(error.message, error.details)))
            }
            Some(error) => Err(Status::from(error).into()),
        }
    }

    /// Runs an operation that is refused while there is no connection, until the deadline.
    pub(crate) async fn when_connected<T, F>(&self, deadline: Instant, mut operation: F) -> Result<T, Status>
    where
        F: FnMut() -> BoxFuture<'static, Result<T, TransportError>>,
    {
        loop {
            match tokio::time::timeout_at(deadline, operation()).await {
                Ok(Err(error)) if is_unsent(&error) => self.connected(deadline).await?,
                Ok(result) => return result.map_err(Status::from),
                Err(_) => {
                    return Err(Status::new(
                        StatusCode::DeadlineExceeded,
                        "the broker did not confirm the message in time",
                    ));
                }
            }
        }
    }

    async fn oneway(&self, invocation: Invocation) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), &invocation)?;
        let accepted = self
            .when_connected(deadline, || {
                let time_to_live = deadline.saturating_duration_since(Instant::now());
                let request = Request {
                    address: address.clone(),
                    message: message.clone(),
                    time_to_live,
                };
                let transport = Arc::clone(&self.inner.transport);
                async move { transport.send(request).await }.boxed()
            })
            .await?;
        Ok(crate::rpc::encode_accepted(accepted))
    }

    async fn publish(&self, invocation: Invocation) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), &invocation)?;
        let accepted = self
            .when_connected(deadline, || {
                let transport = Arc::clone(&self.inner.transport);
                let (address, message) = (address.clone(), message.clone());
                async move { transport.publish(address, message).await }.boxed()
            })
            .await?;
        Ok(crate::rpc::encode_accepted(accepted))
    }

    /// Tells whoever has the request that nobody waits for it any more.
    fn cancel(&self, address: &Address, id: &str) {
        if self.inner.config.dialect != Dialect::Native || self.inner.closed.is_cancelled() {
            return;
        }
        let Some(topic) = cancel_address(address) else {
            return;
        };
        let message = Envelope {
            data: Bytes::from(serde_json::json!({ "id": id }).to_string()),
            meta: Meta {
                id: Some(id::random()),
                timestamp: Some(now_micros()),
                ..Meta::default()
            },
        };
        let transport = Arc::clone(&self.inner.transport);
        let limit = self.inner.config.operation_timeout;
        self.inner.handle.spawn(async move {
            match tokio::time::timeout(limit, transport.publish(topic, message)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a cancellation was not sent"),
                Err(_) => tracing::debug!("a cancellation was not sent in time"),
            }
        });
    }
}

/// Where cancellations of a method's service are published: the method's address without its last level.
fn cancel_address(method: &Address) -> Option<Address> {
    let (service, _) = method.as_str().rsplit_once('.')?;
    cancel_topic(service)
}

/// Where the cancellations of a service are published.
pub(crate) fn cancel_topic(service: &str) -> Option<Address> {
    Address::new(format!("_commlib.cancel.{service}")).ok()
}

/// Whether a message certainly did not leave because there was no connection.
fn is_unsent(error: &TransportError) -> bool {
    error.kind == TransportErrorKind::Disconnected && error.execution == Execution::DidNotRun
}

/// A time left in ms, at least 1 as long as there is any.
fn whole_ms(left: Duration) -> u64 {
    u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// A request that was handed to the transport: what must happen when its caller stops waiting.
struct SentCall<'a> {
    node: &'a Node,
    address: &'a Address,
    id: String,
    over: bool,
}

impl SentCall<'_> {
    fn timed_out(&mut self, waited: Duration) -> Status {
        self.over = true;
        let address = self.address;
        if self.node.inner.transport.forget(&self.id) {
            return Status::new(
                StatusCode::DeadlineExceeded,
                format!("the request to `{address}` could not be sent within {waited:?}"),
            )
            .with_execution(Execution::DidNotRun);
        }
        self.node.cancel(address, &self.id);
        let hint = if self.node.inner.transport.capabilities().no_responders {
            ""
        } else {
            "; nobody may be serving it"
        };
        Status::new(
            StatusCode::DeadlineExceeded,
            format!("no reply from `{address}` within {waited:?}{hint}"),
        )
    }
}

impl Drop for SentCall<'_> {
    fn drop(&mut self) {
        if !self.over && !self.node.inner.transport.forget(&self.id) {
            self.node.cancel(self.address, &self.id);
        }
    }
}

/// The end of the client's middleware: hands the invocation to the transport.
pub(crate) struct Sending<'a> {
    pub(crate) node: &'a Node,
}

impl End for Sending<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        match invocation.kind {
            Kind::Call => self.node.call(invocation).boxed(),
            Kind::Oneway => self.node.oneway(invocation).boxed(),
            Kind::Publish => self.node.publish(invocation).boxed(),
        }
    }
}

/// The error of a reply as it goes on the wire.
pub(crate) fn wire_error(failure: Failure) -> WireError {
    match failure {
        Failure::App(error) => WireError {
            code: APPLICATION.to_owned(),
            message: error.message,
            details: error.details,
            execution: Some(Execution::Failed),
        },
        Failure::Status(status) => (&status).into(),
        // What failed on this side is nothing that a peer can use.
        Failure::Local(error) => {
            tracing::error!(%error, "a handler's reply could not be sent");
            (&Status::new(StatusCode::Internal, "the handler failed")).into()
        }
    }
}

/// A contract that a node can serve: generated servers and handlers.
pub trait Serve {
    /// Settings of the serving, started by awaiting it.
    type Builder;

    /// Prepares the serving.
    fn serve_on(self, node: &Node) -> Self::Builder;
}

/// Settings of a node.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// let node = commlib::Node::builder()
///     .call_timeout(Duration::from_secs(2))
///     .max_body(64 * 1024)
///     .connect("memory://settings")
///     .await?;
/// # node.shutdown(Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
#[must_use = "settings do nothing until `connect` is awaited"]
pub struct NodeBuilder {
    lazy: bool,
    connect_timeout: Duration,
    operation_timeout: Duration,
    call_timeout: Duration,
    max_body: usize,
    max_in_flight: usize,
    dialect: Option<Dialect>,
    namespace: Option<String>,
    reply_route: Option<ReplyRoute>,
    client_middleware: Vec<Arc<dyn Middleware>>,
    server_middleware: Vec<Arc<dyn Middleware>>,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            lazy: false,
            connect_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            max_body: 1024 * 1024,
            max_in_flight: 10_000,
            dialect: None,
            namespace: None,
            reply_route: None,
            client_middleware: Vec::new(),
            server_middleware: Vec::new(),
        }
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("lazy", &self.lazy)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("max_body", &self.max_body)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// Returns from connecting at once and keeps trying; calls wait for the connection until their deadline.
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// How long one try of connecting may take, greeting and login included. Default 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long the broker may take for an operation without a deadline of its own: publishing, subscribing, serving.
    /// Default 5 s.
    pub fn operation_timeout(mut self, limit: Duration) -> Self {
        self.operation_timeout = limit;
        self
    }

    /// How long calls may take unless the method or the call says otherwise. Default 10 s.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// The largest body in either direction, in bytes, encoded. Default 1 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// How many calls may be in flight at once. Default 10,000; more are refused with `resource_exhausted`.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// The form that this node's clients and publishers write; the URL's `dialect` says it too.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// Puts everything of this node below some levels: with the namespace `robot1`, `sensors.sonar` is
    /// `robot1.sensors.sonar` at the broker. Nodes talk to each other within one namespace. Default: none.
    pub fn namespace(mut self, levels: impl Into<String>) -> Self {
        self.namespace = Some(levels.into());
        self
    }

    /// Where replies come back on AMQP; the URL's `reply` says it too.
    pub fn reply_route(mut self, route: ReplyRoute) -> Self {
        self.reply_route = Some(route);
        self
    }

    /// Wraps everything that this node sends. The first one added is the outermost.
    pub fn client_middleware(mut self, middleware: impl Middleware) -> Self {
        self.client_middleware.push(Arc::new(middleware));
        self
    }

    /// Wraps everything that this node's handlers take. The first one added is the outermost.
    pub fn server_middleware(mut self, middleware: impl Middleware) -> Self {
        self.server_middleware.push(Arc::new(middleware));
        self
    }

    /// Connects. Must be called within a tokio runtime, which the node's work then runs on.
    ///
    /// Dropping the future gives up the attempt.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect(self, url: &str) -> Result<Node, ConnectError> {
        let url = BrokerUrl::parse(url)?;
        let dialect = self.dialect.unwrap_or(match url.setting("dialect") {
            Some("commlib-py") => Dialect::CommlibPy,
            _ => Dialect::Native,
        });
        let reply_route = self.reply_route.unwrap_or(match url.setting("reply") {
            Some("queue") => ReplyRoute::Queue,
            _ => ReplyRoute::Direct,
        });
        let namespace = self
            .namespace
            .map(Address::new)
            .transpose()
            .map_err(|error| ConnectError::Settings(format!("the namespace is no address: {error}")))?;
        let options = TransportOptions {
            lazy: self.lazy,
            connect_timeout: self.connect_timeout,
            operation_timeout: self.operation_timeout,
            max_body: self.max_body,
            dialect,
            reply_route,
            node_id: id::random(),
        };
        let transport = transport::connect(&url, options).await?;
        Ok(Node {
            inner: Arc::new(Inner {
                transport,
                pending: Pending::new(self.max_in_flight),
                inbox: OnceCell::new(),
                config: Config {
                    call_timeout: self.call_timeout,
                    operation_timeout: self.operation_timeout,
                    max_body: self.max_body,
                    dialect,
                    namespace,
                    client_middleware: self.client_middleware,
                    server_middleware: self.server_middleware,
                },
                servers: Mutex::default(),
                closed: CancellationToken::new(),
                handle: Handle::current(),
            }),
        })
    }

    /// Connects to the broker that `COMMLIB_URL` names, `memory://` if it is not set.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_from_env(self) -> Result<Node, ConnectError> {
        match std::env::var(URL_VARIABLE) {
            Ok(url) => self.connect(&url).await,
            Err(std::env::VarError::NotPresent) => self.connect("memory://").await,
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(ConnectError::Url(format!("{URL_VARIABLE} is not UTF-8")))
            }
        }
    }
}
