//! A node: one connection to a broker, and everything that is called, published, served and subscribed through it.

mod builder;
mod flight;
mod sending;
mod throttle;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::address::{Address, Pattern};
use crate::codec::{self, Codec};
use crate::compression::{self, Compression};
use crate::envelope::{Dialect, Envelope};
use crate::error::{ConnectError, Execution, LocalError, NodeError, Status, StatusCode};
use crate::limits::{ID, Limits, after};
use crate::middleware::Middleware;
use crate::rpc::{Budget, Server};
use crate::runtime::pending::Pending;
use crate::transport::{self, ConnectionState, Transport, TransportError, TransportErrorKind};

use throttle::Throttle;

pub use builder::NodeBuilder;
pub(crate) use flight::{InFlight, Stopped};
pub(crate) use sending::{Begun, Cancellation, Sending, cancel_topic, wire_error};

/// The environment variable that [`Node::from_env`] reads.
pub const URL_VARIABLE: &str = "COMMLIB_URL";

/// What closing the connection may take when handlers used up the time for shutting down.
const GOODBYE: Duration = Duration::from_secs(1);

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
    throttle: Throttle,
    inbox: OnceCell<()>,
    config: Config,
    servers: Mutex<Vec<Server>>,
    closed: AtomicBool,
    handle: Handle,
}

/// What a node was built with.
pub(crate) struct Config {
    pub(crate) call_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) limits: Limits,
    pub(crate) retries: Budget,
    pub(crate) dialect: Dialect,
    pub(crate) codec: Codec,
    pub(crate) compression: Option<Compression>,
    pub(crate) namespace: Option<Address>,
    pub(crate) client_middleware: Vec<Arc<dyn Middleware>>,
    pub(crate) server_middleware: Vec<Arc<dyn Middleware>>,
}

impl Config {
    /// Unpacks a message that was received, and makes sure that it is within the limits that the transports leave to
    /// others. How it was compressed, if it was.
    ///
    /// # Errors
    /// Which limit it is over, or why it can't be unpacked; what is refused for that did not run.
    pub(crate) fn receive(
        &self,
        message: &mut Envelope,
        codec: Codec,
    ) -> Result<Option<Compression>, Status> {
        let headers = &message.meta.headers;
        if !headers.is_empty()
            && let Err(over) = headers.check(&self.limits)
        {
            return Err(Status::new(StatusCode::ResourceExhausted, over.to_string()));
        }
        let id = message.meta.id.as_ref().map_or(0, String::len);
        if id > ID {
            let text = format!("the id of the message has {id} bytes, it may have {ID}");
            return Err(Status::new(StatusCode::InvalidArgument, text));
        }
        let compression = self.unpack(&mut message.data, message.meta.content_encoding.take())?;
        codec::check_depth(codec, &message.data, self.limits.depth)
            .map_err(|reason| Status::new(StatusCode::InvalidArgument, reason))?;
        Ok(compression)
    }

    /// Unpacks the body of a message, which is left as it is where it can't be.
    ///
    /// # Errors
    /// Why it can't be.
    pub(crate) fn unpack(
        &self,
        body: &mut Bytes,
        encoding: Option<String>,
    ) -> Result<Option<Compression>, Status> {
        let Some(encoding) = encoding else {
            return Ok(None);
        };
        let (compression, unpacked) = compression::inflate(&encoding, body, &self.limits)?;
        *body = unpacked;
        Ok(Some(compression))
    }
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
    /// Connects to the broker of a URL with the default settings. See [`BrokerUrl`](crate::BrokerUrl) for the schemes.
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
    /// Work that does not finish in time is told through its context, then ended; its callers get `unavailable`. That,
    /// and a broker that is slow to take it, can add up to 1.5 s.
    /// Calls of this node that are still in flight end with an error. A second call does nothing.
    ///
    /// # Errors
    /// When something could not be finished or flushed in time.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), NodeError> {
        self.ending(limit).await
    }

    /// Boxed here, as what an `async fn` awaits is compiled once more in every crate that awaits it.
    fn ending(&self, limit: Duration) -> BoxFuture<'_, Result<(), NodeError>> {
        self.end(limit).boxed()
    }

    async fn end(&self, limit: Duration) -> Result<(), NodeError> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let deadline = after(Instant::now(), limit);
        let servers = std::mem::take(&mut *self.inner.servers.lock());
        let drained =
            futures_util::future::join_all(servers.iter().map(|server| server.shutdown(deadline))).await;
        // Some time for the last replies and the broker's goodbye, even when handlers used up all of it.
        let rest = deadline.saturating_duration_since(Instant::now()).max(GOODBYE);
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

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    /// Whether the current task runs where the node was made.
    pub(crate) fn is_in_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.inner.handle.id())
    }

    pub(crate) fn check_open(&self) -> Result<(), LocalError> {
        if self.is_closed() {
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

    /// Makes sure that requests for a method go to servers of one contract, as far as this node can know.
    pub(crate) fn check_contract(&self, server: &Server) -> Result<(), Status> {
        let servers = self.inner.servers.lock();
        let running = servers.iter().filter(|other| !other.is_stopped());
        let Some(method) = running.filter_map(|other| server.conflict(other)).next() else {
            return Ok(());
        };
        let text = format!(
            "this node serves another contract of the name `{}`, with other methods, and both have a method `{method}`: its requests would go to either; give one of them another name",
            server.name()
        );
        Err(Status::new(StatusCode::InvalidArgument, text).with_execution(Execution::DidNotRun))
    }

    pub(crate) fn register(&self, server: Server) {
        let mut servers = self.inner.servers.lock();
        servers.retain(|server| !server.is_stopped());
        servers.push(server);
    }

    /// Waits for a connection after something could not be sent, until the deadline.
    fn connected<'a>(&'a self, unsent: &'a Unsent, deadline: Instant) -> BoxFuture<'a, Result<(), Status>> {
        self.wait_for_connection(unsent, deadline).boxed()
    }

    async fn wait_for_connection(&self, unsent: &Unsent, deadline: Instant) -> Result<(), Status> {
        // A connection may be gone a moment before its state says so. A broker that is there and takes nothing is asked
        // less and less often.
        let pause = Duration::from_millis(2 << unsent.tries.min(6));
        tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
        let mut state = self.inner.transport.state();
        let wait = async {
            loop {
                let reason = match &*state.borrow_and_update() {
                    state if state.is_connected() && Instant::now() >= deadline => {
                        return Err(unsent.reason.clone());
                    }
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
            let mut unsent = Unsent::default();
            loop {
                let sink = Arc::clone(&self.inner.pending) as Arc<dyn transport::ReplySink>;
                match self.inner.transport.open_inbox(sink).await {
                    Err(error) if error.kind == TransportErrorKind::Disconnected => {
                        self.connected(unsent.again(error), deadline).await?
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

    /// Runs an operation that is refused while there is no connection, until the deadline.
    pub(crate) async fn when_connected<T, F, O>(
        &self,
        deadline: Instant,
        mut operation: F,
    ) -> Result<T, Status>
    where
        F: FnMut() -> O,
        O: Future<Output = Result<T, TransportError>>,
    {
        let mut unsent = Unsent::default();
        loop {
            let mut operation = pin!(operation());
            // What is done at once, as on the in-process bus, needs no timer.
            let first = std::future::poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx))).await;
            let done = match first {
                Poll::Ready(result) => Ok(result),
                Poll::Pending => tokio::time::timeout_at(deadline, operation).await,
            };
            match done {
                Ok(Err(error)) if is_unsent(&error) => self.connected(unsent.again(error), deadline).await?,
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
}

/// A contract that a node can serve: generated servers and handlers.
pub trait Serve {
    /// Settings of the serving, started by awaiting it.
    type Builder;

    /// Prepares the serving.
    fn serve_on(self, node: &Node) -> Self::Builder;
}

/// What could not be sent, how often, and why the last time.
#[derive(Default)]
struct Unsent {
    tries: u32,
    reason: String,
}

impl Unsent {
    fn again(&mut self, error: TransportError) -> &Self {
        self.tries += 1;
        self.reason = error.message;
        self
    }
}

/// Whether a message certainly did not leave because there was no connection.
fn is_unsent(error: &TransportError) -> bool {
    error.kind == TransportErrorKind::Disconnected && error.execution == Execution::DidNotRun
}
