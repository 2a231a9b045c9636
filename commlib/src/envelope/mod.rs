//! One message as transports move it: an encoded body beside what is said about it.
//!
//! Where a broker has no headers, the message travels in an envelope ([`native`]): of JSON, or of MessagePack where the
//! body is no JSON. Peers that run commlib-py
//! speak another form ([`commlib_py`]). AMQP carries the same fields in its properties and headers table.

pub mod commlib_py;
pub(crate) mod msgpack;
pub mod native;

use std::fmt;

use bytes::Bytes;

use crate::codec::{self, Codec};
use crate::error::{Execution, Status, StatusCode};
use crate::limits::{HARD_HEADERS, Limits};

/// The content type of bodies unless something else is said.
pub const JSON: &str = Codec::Json.content_type();

/// The wire code of an error that is the method's own.
pub const APPLICATION: &str = "application";

/// Headers whose name begins like this are fields of the message where the broker has only headers to put them in.
pub(crate) const RESERVED: &str = "commlib-";

/// Which form a client or publisher writes. Servers and subscribers recognise the form of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// The envelope of this project.
    #[default]
    Native,
    /// What commlib-py 0.13 understands.
    CommlibPy,
}

/// A message. `Debug` shows how long the body is, not what is in it.
#[derive(Clone, Default, PartialEq)]
pub struct Envelope {
    /// The encoded body, JSON unless [`Meta::content_type`] says otherwise. Empty where there is none.
    pub data: Bytes,
    /// What is said about it.
    pub meta: Meta,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("data", &Hidden(self.data.len()))
            .field("meta", &self.meta)
            .finish()
    }
}

/// An encoded message whose body, where it is large, is not copied in yet.
#[derive(Default)]
pub(crate) struct Encoded {
    /// Everything else.
    pub(crate) bytes: Vec<u8>,
    /// Where in `bytes` the body belongs.
    pub(crate) at: usize,
    /// Empty where the body is in `bytes`.
    pub(crate) body: Bytes,
}

impl Encoded {
    /// Smaller bodies are copied: that costs less than to keep them apart.
    const APART: usize = 2 * 1024;

    /// With room for the body, unless it is left apart, and for so much more.
    fn for_body(body: &Bytes, more: usize, apart: bool) -> Self {
        let body = if apart && body.len() >= Self::APART {
            0
        } else {
            body.len()
        };
        Vec::with_capacity(body + more).into()
    }

    /// Appends the body, or leaves it apart.
    fn put(&mut self, body: &Bytes, apart: bool) {
        if apart && body.len() >= Self::APART {
            self.at = self.bytes.len();
            self.body = body.clone();
        } else {
            self.bytes.extend_from_slice(body);
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.body.len()
    }
}

impl From<Vec<u8>> for Encoded {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

/// Stands for bytes that may be a secret.
pub(crate) struct Hidden(pub(crate) usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// What a message says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// Names this message. Ours are 24 unguessable characters.
    pub id: Option<String>,
    /// On a reply, the id of the request.
    pub correlation_id: Option<String>,
    /// Where a reply goes, in the transport's own terms. A transport fills it in for requests it sends.
    pub reply_to: Option<String>,
    /// When it was sent, in µs since 1970 UTC.
    pub timestamp: Option<u64>,
    /// The time left for the work when it was sent, in ms.
    pub timeout_ms: Option<u64>,
    /// The form of the body; `None` is JSON.
    pub content_type: Option<String>,
    /// How the body is compressed; `None` is not at all.
    pub content_encoding: Option<String>,
    /// What users and middleware add.
    pub headers: Headers,
    /// On a reply, why there is no result.
    pub error: Option<Box<WireError>>,
}

/// Headers in the order in which they were added; names are compared exactly. `Debug` shows the names and how long the
/// values are: a value may be a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(
    #[expect(
        clippy::box_collection,
        reason = "most messages have no headers, and all are moved often: a list would make them larger"
    )]
    Option<Box<Vec<(String, String)>>>,
);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.iter().map(|(name, value)| (name, Hidden(value.len())));
        f.debug_map().entries(hidden).finish()
    }
}

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Sets a header, in place of an earlier one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        let list = self.0.get_or_insert_default();
        match list.iter_mut().find(|(key, _)| *key == name) {
            Some(entry) => entry.1 = value,
            None => list.push((name, value)),
        }
    }

    /// Sets a header of a message that is being read. Those over what any limit allows are left out, so that a peer who
    /// sends very many costs no more than their bytes; that there are more than may be, [`check`](Self::check) tells. Names
    /// that are reserved for the fields of messages are none of a header, wherever they stand.
    pub(crate) fn receive(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if self.len() <= HARD_HEADERS && !name.starts_with(RESERVED) {
            self.insert(name, value);
        }
    }

    /// Whether there are no more, and no larger ones, than may be.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), HeadersOver> {
        let bytes = || self.iter().map(|(name, value)| name.len() + value.len()).sum();
        let over = |what, value, limit, setting| HeadersOver {
            what,
            value,
            limit,
            setting,
        };
        if self.len() > limits.headers {
            let what = "the number of headers is";
            return Err(over(what, self.len(), limits.headers, "headers"));
        }
        match bytes() {
            bytes if bytes > limits.header_bytes => {
                let what = "the size of all headers in bytes is";
                Err(over(what, bytes, limits.header_bytes, "header_bytes"))
            }
            _ => Ok(()),
        }
    }

    /// Takes a header out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let list = self.0.as_mut()?;
        let at = list.iter().position(|(key, _)| key == name)?;
        let (_, value) = list.remove(at);
        if list.is_empty() {
            self.0 = None;
        }
        Some(value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|list| list.iter())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |list| list.len())
    }
}

/// Which limit the headers of a message are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value}, over the limit of {limit}; its receiver can raise it with `Limits::{setting}`")]
pub(crate) struct HeadersOver {
    /// The beginning of a sentence.
    pub(crate) what: &'static str,
    pub(crate) value: usize,
    pub(crate) limit: usize,
    pub(crate) setting: &'static str,
}

/// The error of a reply, as it travels.
#[derive(Clone, PartialEq)]
pub struct WireError {
    /// A status code, or [`APPLICATION`] for the method's own error.
    pub code: String,
    /// For people.
    pub message: String,
    /// For programs, encoded like a body, in the form that the message's content type names: the method's own error, or
    /// what a status adds. Empty where there is none.
    pub details: Bytes,
    /// What happened to the work.
    pub execution: Option<Execution>,
}

impl fmt::Debug for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireError")
            .field("code", &self.code)
            .field("message", &self.message)
            .field("details", &Hidden(self.details.len()))
            .field("execution", &self.execution)
            .finish()
    }
}

impl From<&Status> for WireError {
    fn from(status: &Status) -> Self {
        Self {
            code: status.code.as_str().to_owned(),
            message: status.message.clone(),
            details: status
                .details
                .as_ref()
                .map(|details| serde_json::to_vec(details).unwrap_or_default().into())
                .unwrap_or_default(),
            execution: Some(status.execution),
        }
    }
}

impl WireError {
    /// The status of a reply whose content type names this codec, if any.
    pub(crate) fn into_status(self, codec: Option<Codec>) -> Status {
        let status = Status::new(StatusCode::from_wire(&self.code), self.message);
        let execution = self.execution.unwrap_or(status.execution);
        // Details that can't be read are a peer's fault that must not hide the error itself.
        let details = codec
            .filter(|_| !self.details.is_empty())
            .and_then(|codec| codec::decode(codec, &self.details).ok());
        Status {
            details,
            execution,
            ..status
        }
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {reason}")]
pub struct Malformed {
    /// What is wrong; a position, never the content.
    pub reason: String,
    /// Where an answer may go nevertheless.
    pub reply_to: Option<String>,
    /// What the answer must name.
    pub correlation_id: Option<String>,
}

impl Malformed {
    /// A request whose answer is wanted where nothing may be written: its sender is not to have anything run, either.
    #[must_use]
    pub(crate) fn forged() -> Self {
        Self::new("it wants its answer at an address that is no reply address")
    }

    /// With nobody to answer.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            reply_to: None,
            correlation_id: None,
        }
    }
}
