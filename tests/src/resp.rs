//! A tiny Redis client, so that tests can look at the broker with other eyes than the code under test.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::net::local;

/// How long a command may take: longer than any block time that a test asks for.
const LIMIT: Duration = Duration::from_secs(30);

/// A reply of Redis (RESP2).
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Status(String),
    /// An error, with its code in front.
    Error(String),
    /// An integer.
    Int(i64),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// No value.
    Nil,
    /// A list.
    Array(Vec<Reply>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(text) => write!(out, "Status({text})"),
            Self::Error(text) => write!(out, "Error({text})"),
            Self::Int(value) => write!(out, "{value}"),
            Self::Bytes(bytes) => write!(out, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Nil => write!(out, "Nil"),
            Self::Array(items) => out.debug_list().entries(items).finish(),
        }
    }
}

impl Reply {
    /// The integer.
    ///
    /// # Panics
    /// When the reply is something else.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(value) => *value,
            other => panic!("expected an integer from Redis, got {other:?}"),
        }
    }

    /// The bytes of a string, none for a missing value.
    ///
    /// # Panics
    /// When the reply is something else.
    #[track_caller]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Nil => None,
            other => panic!("expected a string from Redis, got {other:?}"),
        }
    }

    /// The items of a list, as text.
    ///
    /// # Panics
    /// When the reply is something else.
    #[track_caller]
    pub fn strings(&self) -> Vec<String> {
        match self {
            Self::Array(items) => items
                .iter()
                .map(|item| String::from_utf8_lossy(item.bytes().unwrap_or_default()).into_owned())
                .collect(),
            other => panic!("expected a list from Redis, got {other:?}"),
        }
    }
}

/// One connection to Redis that sends a command at a time.
#[derive(Debug)]
pub struct RespClient {
    stream: BufReader<TcpStream>,
}

impl RespClient {
    /// Connects to 127.0.0.1.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(local(port)).await;
        let stream =
            stream.unwrap_or_else(|error| panic!("could not connect to Redis on port {port}: {error}"));
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Sends a command and waits for its reply, which may be [`Reply::Error`].
    ///
    /// # Panics
    /// When the connection fails or there is no reply within 30 s.
    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        self.send(args).await;
        self.read().await
    }

    /// Sends a command without waiting.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        let sent = self.stream.get_mut().write_all(&out).await;
        sent.unwrap_or_else(|error| panic!("could not write to Redis: {error}"));
    }

    /// Waits for the next reply, or the next message of a subscription.
    ///
    /// # Panics
    /// When the connection fails or nothing comes within 30 s.
    pub async fn read(&mut self) -> Reply {
        match tokio::time::timeout(LIMIT, self.read_any()).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("could not read from Redis: {error}"),
            Err(_) => panic!("Redis did not answer within {LIMIT:?}"),
        }
    }

    fn read_any(&mut self) -> Pin<Box<dyn Future<Output = std::io::Result<Reply>> + Send + '_>> {
        Box::pin(async move {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            let bad = || std::io::Error::other(format!("not a reply of Redis: {line:?}"));
            let (kind, rest) = line.split_at_checked(1).ok_or_else(bad)?;
            let number = || rest.parse::<i64>().map_err(|_| bad());
            Ok(match kind {
                "+" => Reply::Status(rest.to_owned()),
                "-" => Reply::Error(rest.to_owned()),
                ":" => Reply::Int(number()?),
                "$" | "*" if number()? < 0 => Reply::Nil,
                "$" => {
                    let len = usize::try_from(number()?).map_err(|_| bad())?;
                    let mut bytes = vec![0; len + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(len);
                    Reply::Bytes(bytes)
                }
                "*" => {
                    let mut items = Vec::new();
                    for _ in 0..number()? {
                        items.push(self.read_any().await?);
                    }
                    Reply::Array(items)
                }
                _ => return Err(bad()),
            })
        })
    }
}
