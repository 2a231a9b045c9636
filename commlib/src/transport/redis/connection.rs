//! One connection to the broker: opening it, logging in, and moving values over it.
//!
//! Whoever owns a [`Link`] owns its socket: nothing stands between a role of this transport and the network, so a
//! role knows what was written, and a message costs one wake-up each way.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::ServerError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use super::fault;
use super::resp::{self, Decoder, NotResp, Value};
use crate::error::ConnectError;
use crate::transport::url::{Scheme, Secret};
use crate::transport::{BrokerUrl, Tls};

/// A connection that owes an answer and says nothing for this long is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// A connection on which nothing happens is asked for a sign of life this often.
pub(super) const IDLE: Duration = Duration::from_secs(3);
/// A connection that is not open after this long may be lost: a new one is tried beside it.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How much is read at once: little while little comes, as a message that is kept keeps the whole chunk.
const SMALL_CHUNK: usize = 8 * 1024;
const LARGE_CHUNK: usize = 64 * 1024;
/// A new chunk is begun when less than this is left of one.
const LEAST_READ: usize = 2 * 1024;

/// Why a connection could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Unreachable(String),
    Auth(String),
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "without TLS nothing secure can fail")
    )]
    Tls(String),
    Timeout,
    Unsupported(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::Unsupported(reason) => f.write_str(reason),
            Self::Auth(reason) => write!(f, "the login was refused: {reason}"),
            Self::Tls(reason) => write!(f, "no secure connection: {reason}"),
            Self::Timeout => f.write_str("the broker did not answer in time"),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct LinkError(pub(super) String);

impl LinkError {
    pub(super) fn silent() -> Self {
        Self("the broker does not answer".into())
    }

    pub(super) fn unexpected() -> Self {
        Self("the broker answered what was not asked for".into())
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<NotResp> for LinkError {
    fn from(error: NotResp) -> Self {
        Self(error.to_string())
    }
}

/// How to reach the broker.
pub(super) struct Endpoint {
    /// For messages.
    pub(super) address: String,
    target: Target,
    user: Option<String>,
    password: Option<Secret>,
    database: i64,
    timeout: Duration,
    node_id: String,
    largest: usize,
}

enum Target {
    Tcp {
        host: String,
        port: u16,
        #[cfg(feature = "tls")]
        tls: Option<Box<super::tls::Tls>>,
    },
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

impl Endpoint {
    /// Strings over `largest` bytes are not read into memory.
    pub(super) fn new(
        url: &BrokerUrl,
        #[cfg_attr(
            not(feature = "tls"),
            expect(unused_variables, reason = "without TLS there is nothing to set")
        )]
        tls: &Tls,
        timeout: Duration,
        node_id: String,
        largest: usize,
    ) -> Result<Self, ConnectError> {
        let database = match url.kind() {
            Scheme::RedisUnix => url.setting("db"),
            _ => Some(url.path()).filter(|path| !path.is_empty()),
        };
        let target = match url.kind() {
            #[cfg(unix)]
            Scheme::RedisUnix => Target::Unix(url.path().into()),
            #[cfg(not(unix))]
            Scheme::RedisUnix => {
                return Err(ConnectError::Unsupported {
                    transport: "redis",
                    reason: "has no Unix sockets on this system".into(),
                });
            }
            #[cfg(not(feature = "tls"))]
            Scheme::Rediss => {
                return Err(ConnectError::NotBuilt {
                    scheme: "rediss",
                    feature: "tls",
                });
            }
            #[cfg_attr(
                not(feature = "tls"),
                expect(unused_variables, reason = "it decides about TLS only")
            )]
            scheme => Target::Tcp {
                host: url.host().to_owned(),
                port: url.port(),
                #[cfg(feature = "tls")]
                tls: match scheme {
                    Scheme::Rediss => Some(Box::new(super::tls::Tls::new(url, tls, timeout)?)),
                    _ => None,
                },
            },
        };
        Ok(Self {
            address: url.address(),
            target,
            user: url.user().map(str::to_owned),
            password: url.password().cloned(),
            database: database.and_then(|number| number.parse().ok()).unwrap_or(0),
            timeout,
            node_id,
            largest,
        })
    }

    /// Connects and logs in, within the timeout. `role` names the connection at the broker.
    ///
    /// A try that hears nothing may be lost in an outage that is over by now, or on a slow network: another one is made
    /// beside it every now and then, and the first that ends counts.
    pub(super) fn open<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Link, OpenError>> {
        self.open_first(role).boxed()
    }

    async fn open_first(&self, role: &str) -> Result<Link, OpenError> {
        let first = async {
            let mut tries = FuturesUnordered::new();
            let mut again = interval(TRY_AGAIN);
            loop {
                tokio::select! {
                    biased;
                    Some(result) = tries.next() => return result,
                    _ = again.tick() => tries.push(self.open_now(role)),
                }
            }
        };
        match tokio::time::timeout(self.timeout, first).await {
            Ok(result) => result,
            Err(_) => Err(OpenError::Timeout),
        }
    }

    async fn open_now(&self, role: &str) -> Result<Link, OpenError> {
        let (read, write) = self.dial().await?;
        let mut link = Link {
            reader: Reader {
                read,
                decoder: Decoder::new(self.largest),
                buffer: BytesMut::with_capacity(SMALL_CHUNK),
                chunk: SMALL_CHUNK,
                heard: Instant::now(),
            },
            writer: write,
            client_id: 0,
            modern: false,
            replica: false,
        };
        let name = format!("commlib:{role}:{}", self.node_id);
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if self.user.is_some() || self.password.is_some() {
            words.push(b"AUTH");
            words.push(self.user.as_deref().unwrap_or("default").as_bytes());
            words.push(
                self.password
                    .as_ref()
                    .map(Secret::expose)
                    .unwrap_or_default()
                    .as_bytes(),
            );
        }
        words.extend_from_slice(&[b"SETNAME", name.as_bytes()]);
        let mut out = Vec::new();
        resp::command(&mut out, &words);
        if self.database != 0 {
            resp::command(&mut out, &[b"SELECT", self.database.to_string().as_bytes()]);
        }
        let silent = |error: LinkError| self.ended_early(&error);
        link.write(&out).await.map_err(silent)?;
        match link.reader.next().await.map_err(silent)? {
            Value::Array(hello) => {
                let said = |name| {
                    let mut pairs = hello.chunks_exact(2);
                    pairs
                        .find(|pair| pair[0].as_str() == Some(name))
                        .map(|pair| &pair[1])
                };
                link.client_id = said("id").and_then(Value::as_int).unwrap_or(0);
                link.replica = said("role").and_then(Value::as_str) == Some("replica");
                link.modern = said("version")
                    .and_then(|version| version.as_str()?.split('.').next()?.parse::<u32>().ok())
                    .is_some_and(|major| major >= 7);
            }
            Value::Error(error) => return Err(self.refused(&error)),
            _ => return Err(OpenError::Unreachable("it is not a Redis server".into())),
        }
        if self.database != 0
            && let Value::Error(error) = link.reader.next().await.map_err(silent)?
        {
            return Err(OpenError::Auth(self.scrub(&error)));
        }
        Ok(link)
    }

    /// The connection ended before the server said anything.
    fn ended_early(&self, error: &LinkError) -> OpenError {
        #[cfg(feature = "tls")]
        if let Target::Tcp { tls: Some(tls), .. } = &self.target {
            return OpenError::Tls(tls.ended_early(&error.to_string()));
        }
        OpenError::Unreachable(error.to_string())
    }

    async fn dial(&self) -> Result<(ReadHalf, WriteHalf), OpenError> {
        let unreachable = |error: io::Error| OpenError::Unreachable(error.to_string());
        match &self.target {
            #[cfg(unix)]
            Target::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(unreachable)?;
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Box::new(write)))
            }
            Target::Tcp {
                host,
                port,
                #[cfg(feature = "tls")]
                tls,
            } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(unreachable)?;
                // Every write here is a whole batch; waiting to fill a segment would only delay its end.
                stream.set_nodelay(true).map_err(unreachable)?;
                #[cfg(feature = "tls")]
                if let Some(tls) = tls {
                    let stream = tls.handshake(stream).await.map_err(OpenError::Tls)?;
                    let (read, write) = tokio::io::split(stream);
                    return Ok((Box::new(read), Box::new(write)));
                }
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Box::new(write)))
            }
        }
    }

    fn refused(&self, error: &ServerError) -> OpenError {
        let lower = error.details().unwrap_or_default().to_ascii_lowercase();
        // An old server repeats a command that it does not know, password included.
        if lower.contains("unknown command") || error.code() == "NOPROTO" {
            OpenError::Unsupported("the server is older than Redis 6.2".into())
        } else if ["WRONGPASS", "NOAUTH", "NOPERM"].contains(&error.code()) || lower.contains("auth") {
            OpenError::Auth(self.scrub(error))
        } else {
            OpenError::Unreachable(self.scrub(error))
        }
    }

    /// What the server said, without the password.
    fn scrub(&self, error: &ServerError) -> String {
        let password = self.password.as_ref().map(Secret::expose);
        fault::text_without(error, password.unwrap_or_default())
    }

    /// The error of a connect that failed for good.
    pub(super) fn connect_error(&self, error: OpenError) -> ConnectError {
        let address = self.address.clone();
        match error {
            OpenError::Unreachable(reason) => ConnectError::Unreachable { address, reason },
            OpenError::Auth(reason) => ConnectError::Auth { address, reason },
            OpenError::Tls(reason) => ConnectError::Tls { address, reason },
            OpenError::Timeout => ConnectError::Timeout {
                address,
                limit: self.timeout,
            },
            OpenError::Unsupported(reason) => ConnectError::Unsupported {
                transport: "redis",
                reason: format!("cannot use the broker at {address}: {reason}"),
            },
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("password", &self.password)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// An open connection.
pub(super) struct Link {
    pub(super) reader: Reader,
    pub(super) writer: WriteHalf,
    /// The broker's number of this connection.
    pub(super) client_id: i64,
    /// Whether it has what came with Redis 7: `BLMPOP`, and `PEXPIRE` with conditions.
    pub(super) modern: bool,
    /// Whether it is the copy of another broker, which takes no writes.
    pub(super) replica: bool,
}

impl Link {
    /// Writes all of it. Not cancellation safe.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await?;
        Ok(())
    }

    /// Writes commands and reads one answer to each of them, all within `limit`.
    pub(super) async fn ask(
        &mut self,
        commands: &[u8],
        answers: usize,
        limit: Duration,
    ) -> Result<Vec<Value>, LinkError> {
        let exchange = async {
            self.write(commands).await?;
            let mut values = Vec::with_capacity(answers);
            while values.len() < answers {
                values.push(self.reader.next().await?);
            }
            Ok(values)
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(LinkError::silent()))
    }
}

/// The half that answers come from.
pub(super) struct Reader {
    read: ReadHalf,
    decoder: Decoder,
    buffer: BytesMut,
    /// How large the next chunk is.
    chunk: usize,
    /// When bytes last came.
    pub(super) heard: Instant,
}

impl Reader {
    /// The next value. Cancellation safe.
    pub(super) async fn next(&mut self) -> Result<Value, LinkError> {
        loop {
            if let Some(value) = self.ready()? {
                return Ok(value);
            }
            let lacks = self.decoder.lacks(self.buffer.len());
            if self.buffer.capacity() - self.buffer.len() < lacks.max(LEAST_READ) {
                self.buffer.reserve(lacks.max(self.chunk));
            }
            let room = self.buffer.capacity() - self.buffer.len();
            let count = self.read.read_buf(&mut self.buffer).await?;
            if count == 0 {
                return Err(LinkError("the broker closed the connection".into()));
            }
            if count == room {
                self.chunk = LARGE_CHUNK;
            }
            self.heard = Instant::now();
        }
    }

    /// The next value, if all of it was read already.
    pub(super) fn ready(&mut self) -> Result<Option<Value>, LinkError> {
        Ok(self.decoder.decode(&mut self.buffer)?)
    }
}
