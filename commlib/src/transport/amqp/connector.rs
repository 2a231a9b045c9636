//! Opens one connection in a way that can be given up.
//!
//! The client library has no limit for its greeting, and an attempt that is dropped lives on with its thread and its
//! socket. So the socket is opened here, and a second handle of it is kept, through which it can be shut down: that
//! ends an attempt, and a connection that the broker no longer reads from.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_compat::Compat;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use parking_lot::Mutex;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;

use super::errors;
use super::properties::name;
use super::wire::{self, LIBRARY_FRAME_MAX, Wire};
use crate::error::ConnectError;
#[cfg(feature = "tls")]
use crate::transport::tls;
use crate::transport::url::Scheme;
use crate::transport::{BrokerUrl, Tls};

const HEARTBEAT_SECONDS: u16 = 10;
/// How many times the limit a connection that is made anew may take in all, while the broker goes on answering.
const PATIENCE: u32 = 6;

type Stream = AsyncTcpStream<Compat<TcpStream>>;

/// What is needed to connect. `Debug` shows no password.
pub(super) struct Target {
    url: BrokerUrl,
    #[cfg(feature = "tls")]
    tls: Option<tls::Client>,
    /// Shown by the broker's tools.
    name: String,
    limit: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.url.address()).finish()
    }
}

/// Shuts the socket of a connection down.
#[derive(Debug)]
pub(super) struct KillHandle(Socket);

impl KillHandle {
    pub(super) fn kill(&self) {
        // A socket that is gone already is as dead as it can be.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// A connection that is logged in.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) wire: Arc<Wire>,
    pub(super) handle: KillHandle,
}

/// Kills an attempt whose future is dropped.
struct KillOnDrop(Option<KillHandle>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.kill();
        }
    }
}

impl Target {
    pub(super) fn new(
        url: &BrokerUrl,
        #[cfg_attr(
            not(feature = "tls"),
            expect(unused_variables, reason = "without TLS there is nothing to set")
        )]
        tls: &Tls,
        name: String,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        #[cfg(not(feature = "tls"))]
        if url.kind() == Scheme::Amqps {
            return Err(ConnectError::NotBuilt {
                scheme: "amqps",
                feature: "tls",
            });
        }
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: match url.kind() {
                Scheme::Amqps => Some(tls::Client::new(url, tls, limit)?),
                _ => None,
            },
            url: url.clone(),
            name,
            limit,
        })
    }

    /// Connects and logs in, within the limit. Dropping the future ends the attempt.
    ///
    /// In a box, so that programs have the client library's machinery once and not for each place that connects.
    pub(super) fn open<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        self.within(self.limit, self.attempt(role)).boxed()
    }

    /// As [`open`](Self::open), but the limit is for each silence of the broker, as long as all of them together are
    /// bounded: where all its clients come back at once, it answers each of them late. If they gave up and began again,
    /// that would cost it as much as to let them in, and none would ever get there.
    pub(super) fn reopen<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        self.within(self.limit.saturating_mul(PATIENCE), self.attempt(role))
            .boxed()
    }

    fn timed_out(&self, limit: Duration) -> ConnectError {
        ConnectError::Timeout {
            address: self.url.address(),
            limit,
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        step: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let result = tokio::time::timeout(limit, step).await;
        result.unwrap_or_else(|_| Err(self.timed_out(limit)))
    }

    /// Waits for a step as long as the broker is not silent for the limit, or for a moment less than twice that.
    async fn while_heard<T>(
        &self,
        wire: &Wire,
        step: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let mut step = pin!(step);
        loop {
            let heard = wire.heard();
            match tokio::time::timeout(self.limit, step.as_mut()).await {
                Ok(result) => return result,
                Err(_) if wire.heard() != heard => {}
                Err(_) => return Err(self.timed_out(self.limit)),
            }
        }
    }

    async fn attempt(&self, role: &str) -> Result<Opened, ConnectError> {
        let unreachable = |error: std::io::Error| ConnectError::Unreachable {
            address: self.url.address(),
            reason: error.to_string(),
        };
        let connecting = TcpStream::connect((self.url.host(), self.url.port()));
        let socket = self
            .within(self.limit, connecting.map(|socket| socket.map_err(unreachable)))
            .await?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
        let handle = SockRef::from(&socket);
        handle.set_tcp_keepalive(&keepalive).map_err(unreachable)?;
        let mut handle = KillOnDrop(Some(KillHandle(handle.try_clone().map_err(unreachable)?)));
        let stream = self.secure(AsyncTcpStream::Plain(Compat::new(socket))).await?;
        let (connection, wire) = self.greet(stream, role).await?;
        match handle.0.take() {
            Some(handle) => Ok(Opened {
                connection,
                wire,
                handle,
            }),
            // It was put there six lines above.
            None => Err(unreachable(std::io::ErrorKind::NotConnected.into())),
        }
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, stream: Stream) -> Result<Stream, ConnectError> {
        let Some(tls) = &self.tls else {
            return Ok(stream);
        };
        let connector = lapin::tcp::RustlsConnector::from(tls.config.clone());
        let handshake = stream.into_rustls(&connector, self.url.host());
        tls.bounded(handshake).await.map_err(|reason| tls.error(reason))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, stream: Stream) -> Result<Stream, ConnectError> {
        Ok(stream)
    }

    /// What it means that the greeting or the login failed.
    fn refused(&self, error: &lapin::Error) -> ConnectError {
        #[cfg(feature = "tls")]
        if let (Some(tls), lapin::ErrorKind::IOError(cause)) = (&self.tls, error.kind()) {
            return tls.error(tls.ended_early(&tls::reason(cause)));
        }
        errors::login(&self.url.address(), error)
    }

    async fn greet(&self, stream: Stream, role: &str) -> Result<(Connection, Arc<Wire>), ConnectError> {
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.url.user().unwrap_or("guest").to_owned(),
                    password: self
                        .url
                        .password()
                        .map_or("guest", |password| password.expose())
                        .to_owned(),
                },
                host: self.url.host().to_owned(),
                port: self.url.port(),
            },
            vhost: match self.url.path() {
                "" => "/".to_owned(),
                vhost => vhost.to_owned(),
            },
            query: AMQPQueryString {
                frame_max: Some(LIBRARY_FRAME_MAX),
                heartbeat: Some(self.heartbeat()),
                ..AMQPQueryString::default()
            },
        };
        // The library panics over names that no broker can have.
        if uri.vhost.len() > 255 {
            return Err(ConnectError::Auth {
                address: self.url.address(),
                reason: "the name of the virtual host is longer than 255 bytes".into(),
            });
        }
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {role}", self.name).into())
            .with_client_property(name("product"), LongString::from("commlib"))
            .with_client_property(name("version"), LongString::from(env!("CARGO_PKG_VERSION")));
        let (wire, library) = Wire::over(stream);
        let library = Arc::new(Mutex::new(Some(AsyncTcpStream::Plain(library))));
        let connecting = Connection::connector(
            uri,
            wire::runtime(),
            async move |_, _| {
                let library = library.lock().take();
                // Asked again only by the library's own recovery, which is off.
                library.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
            },
            properties,
        );
        let connecting = connecting.map(|connection| connection.map_err(|error| self.refused(&error)));
        let connection = self.while_heard(&wire, connecting).await?;
        Ok((connection, wire))
    }

    /// In seconds; 0 for none.
    pub(super) fn heartbeat(&self) -> u16 {
        self.url
            .setting("heartbeat")
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(HEARTBEAT_SECONDS)
    }
}
