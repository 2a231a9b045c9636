//! Settings of a node, and connecting with them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::throttle::Throttle;
use super::{Config, Inner, Node, URL_VARIABLE};
use crate::address::Address;
use crate::codec::Codec;
use crate::compression::Compression;
use crate::envelope::Dialect;
use crate::error::ConnectError;
use crate::limits::{FOREVER, Limits};
use crate::middleware::Middleware;
use crate::rpc::{Budget, RetryBudget};
use crate::runtime::id;
use crate::runtime::pending::Pending;
use crate::transport::{self, BrokerUrl, ReplyRoute, Tls, TransportOptions};

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
    limits: Limits,
    retry_budget: RetryBudget,
    dialect: Option<Dialect>,
    codec: Option<Codec>,
    compression: Option<Compression>,
    namespace: Option<String>,
    tls: Option<Tls>,
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
            limits: Limits::new(),
            retry_budget: RetryBudget::default(),
            dialect: None,
            codec: None,
            compression: None,
            namespace: None,
            tls: None,
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
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// Returns from connecting at once and keeps trying; calls wait for the connection until their deadline.
    ///
    /// While there has been no connection, serving and subscribing return at once too, and begin when the connection
    /// comes: a subscription is then told of a gap, and a refusal of the broker is logged and tried again.
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// How long one try of connecting may take, greeting and login included. Default 5 s.
    ///
    /// Where a connection to RabbitMQ is made anew, the limit is for each silence of the broker: one that goes on answering
    /// has up to six times as long, since a busy broker would never get its clients back that all give up and begin again.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit.min(FOREVER);
        self
    }

    /// How long the broker may take for an operation without a deadline of its own: publishing, subscribing, serving.
    /// Default 5 s.
    pub fn operation_timeout(mut self, limit: Duration) -> Self {
        self.operation_timeout = limit.min(FOREVER);
        self
    }

    /// How long calls may take unless the method or the call says otherwise. Default 10 s.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit.min(FOREVER);
        self
    }

    /// How large, how deep and how many: see [`Limits`] for each with its default.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The largest body in either direction, in bytes, encoded: [`Limits::body`]. Default 1 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.limits = self.limits.body(bytes);
        self
    }

    /// How many calls may be in flight at once: [`Limits::calls_in_flight`]. Default 10,000; more are refused with
    /// `resource_exhausted`.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.limits = self.limits.calls_in_flight(calls);
        self
    }

    /// How many retries this node allows itself, all calls together. Default 10 % of the calls that have a
    /// [`Retry`](crate::rpc::Retry), and 10 in 10 s.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.retry_budget = budget;
        self
    }

    /// The form that this node's clients and publishers write; the URL's `dialect` says it too.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// How this node's clients and publishers encode bodies; the URL's `codec` says it too. Default [`Codec::Json`].
    ///
    /// Servers and subscribers read every codec that their build has, and servers answer in the codec of the request. A
    /// peer that lacks it refuses the message, saying so. MessagePack needs the feature `msgpack` of the crate commlib.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// How this node's clients and publishers compress bodies of 1 KiB and more; the URL's `compression` says it too. Default:
    /// not at all.
    ///
    /// Servers and subscribers read every compression that their build has, and servers answer compressed requests in the
    /// same way. A peer that lacks it refuses the message, saying so. It needs the feature `compression` of the crate commlib.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Puts everything of this node below some levels: with the namespace `robot1`, `sensors.sonar` is
    /// `robot1.sensors.sonar` at the broker. Nodes talk to each other within one namespace. Default: none.
    pub fn namespace(mut self, levels: impl Into<String>) -> Self {
        self.namespace = Some(levels.into());
        self
    }

    /// Whom secure connections trust, and the certificate shown to the broker; in place of what the URL says of it.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
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
        self.starting(url).await
    }

    /// Boxed here, as what an `async fn` awaits is compiled once more in every crate that awaits it: the whole transport.
    fn starting(self, url: &str) -> BoxFuture<'_, Result<Node, ConnectError>> {
        self.start(url).boxed()
    }

    async fn start(self, url: &str) -> Result<Node, ConnectError> {
        let url = BrokerUrl::parse(url)?;
        let dialect = self.dialect.unwrap_or(match url.setting("dialect") {
            Some("commlib-py") => Dialect::CommlibPy,
            _ => Dialect::Native,
        });
        let reply_route = self.reply_route.unwrap_or(match url.setting("reply") {
            Some("queue") => ReplyRoute::Queue,
            _ => ReplyRoute::Direct,
        });
        let codec = self.codec.unwrap_or(match url.setting("codec") {
            Some("msgpack") => Codec::MessagePack,
            _ => Codec::Json,
        });
        check_codec(codec, dialect)?;
        let compression = self.compression.or(url
            .setting("compression")
            .and_then(Compression::from_content_encoding));
        check_compression(compression, dialect)?;
        self.limits.check().map_err(ConnectError::Settings)?;
        let namespace = self
            .namespace
            .map(Address::new)
            .transpose()
            .map_err(|error| ConnectError::Settings(format!("the namespace is no address: {error}")))?;
        let options = TransportOptions {
            lazy: self.lazy,
            connect_timeout: self.connect_timeout,
            operation_timeout: self.operation_timeout,
            limits: self.limits.clone(),
            dialect,
            reply_route,
            tls: self.tls.unwrap_or_else(|| Tls::of(&url)),
            node_id: id::random(),
        };
        let transport = transport::connect(&url, options).await?;
        let handle = Handle::current();
        Ok(Node {
            inner: Arc::new(Inner {
                transport,
                pending: Pending::new(self.limits.calls_in_flight, handle.clone()),
                throttle: Throttle::new(self.limits.refusals),
                inbox: OnceCell::new(),
                config: Config {
                    call_timeout: self.call_timeout,
                    operation_timeout: self.operation_timeout,
                    limits: self.limits,
                    retries: Budget::new(self.retry_budget),
                    dialect,
                    codec,
                    compression,
                    namespace,
                    client_middleware: self.client_middleware,
                    server_middleware: self.server_middleware,
                },
                servers: Mutex::default(),
                closed: AtomicBool::new(false),
                handle,
            }),
        })
    }

    /// Connects to the broker that `COMMLIB_URL` names, `memory://` if it is not set.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_from_env(self) -> Result<Node, ConnectError> {
        self.starting_from_env().await
    }

    fn starting_from_env(self) -> BoxFuture<'static, Result<Node, ConnectError>> {
        async move {
            let url = match std::env::var(URL_VARIABLE) {
                Ok(url) => url,
                Err(std::env::VarError::NotPresent) => "memory://".to_owned(),
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(ConnectError::Url(format!("{URL_VARIABLE} is not UTF-8")));
                }
            };
            self.starting(&url).await
        }
        .boxed()
    }
}

/// Whether bodies of the dialect can be compressed like this, and by this build.
fn check_compression(compression: Option<Compression>, dialect: Dialect) -> Result<(), ConnectError> {
    let fail = |text: &str| Err(ConnectError::Settings(text.to_owned()));
    match compression {
        Some(compression) if !compression.is_built() => {
            fail("this build has no compression; enable the feature `compression` of the crate commlib")
        }
        Some(_) if dialect != Dialect::Native => fail(
            "messages of the dialect commlib-py do not say that they are compressed, so that no peer could know; leave \
             out the compression, or connect without the dialect",
        ),
        _ => Ok(()),
    }
}

/// Whether messages of the dialect can be written in the codec, and by this build.
fn check_codec(codec: Codec, dialect: Dialect) -> Result<(), ConnectError> {
    let fail = |text: &str| Err(ConnectError::Settings(text.to_owned()));
    if !codec.is_built() {
        return fail("this build has no MessagePack; enable the feature `msgpack` of the crate commlib");
    }
    if codec != Codec::Json && dialect != Dialect::Native {
        return fail(
            "the dialect commlib-py has no form for MessagePack; leave out the codec, or connect without the dialect",
        );
    }
    Ok(())
}
