//! The one seam on each side through which headers, logging, metrics and authentication are added.
//!
//! A middleware wraps every call, one-way message and publish that leaves a node
//! ([`NodeBuilder::client_middleware`](crate::NodeBuilder::client_middleware)), or every request and topic message
//! that a handler of a node takes ([`NodeBuilder::server_middleware`](crate::NodeBuilder::server_middleware)).
//! The first one added is the outermost.
//!
//! ```
//! use commlib::middleware::{BoxFuture, Invocation, Middleware, Next, Outcome};
//! use commlib::{Failure, Status, StatusCode};
//!
//! /// Lets in only callers that show the token.
//! struct Token(String);
//!
//! impl Middleware for Token {
//!     fn handle<'a>(&'a self, invocation: Invocation, next: Next<'a>) -> BoxFuture<'a, Outcome> {
//!         Box::pin(async move {
//!             if invocation.headers.get("token") != Some(self.0.as_str()) {
//!                 return Err(Failure::Status(Status::new(StatusCode::Unauthenticated, "show the token")));
//!             }
//!             next.run(invocation).await
//!         })
//!     }
//! }
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::address::Address;
use crate::codec::Codec;
use crate::envelope::{Headers, Hidden, RESERVED};
use crate::error::{Failure, Status, StatusCode};
use crate::limits::{HEADER_NAME, HEADER_VALUE, Limits};
use crate::transport::Accepted;

pub use futures_util::future::BoxFuture;

/// What kind of work an invocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A request that is answered.
    Call,
    /// A request that is not answered.
    Oneway,
    /// A topic message.
    Publish,
}

/// One piece of work on its way. `Debug` shows neither the body nor the values of the headers.
#[derive(Clone)]
#[non_exhaustive]
pub struct Invocation {
    /// What it is.
    pub kind: Kind,
    /// The method or topic.
    pub address: Address,
    /// The headers, to read or to add to. On the serving side they come from the peer: untrusted.
    pub headers: Headers,
    /// The encoded body.
    pub body: Bytes,
    /// How it is encoded.
    pub codec: Codec,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("kind", &self.kind)
            .field("address", &self.address)
            .field("headers", &self.headers)
            .field("body", &Hidden(self.body.len()))
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl Invocation {
    pub(crate) fn new(
        kind: Kind,
        address: Address,
        headers: Headers,
        (codec, body): (Codec, Bytes),
        deadline: Instant,
    ) -> Self {
        Self {
            kind,
            address,
            headers,
            body,
            codec,
            deadline,
        }
    }
}

/// What came of an invocation that succeeded. `Debug` does not show the body.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Reply {
    /// The encoded result; empty where there is none.
    pub body: Bytes,
    /// How it is encoded.
    pub codec: Codec,
    /// Of what is not answered: what the broker said when it took the message.
    pub accepted: Option<Accepted>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("body", &Hidden(self.body.len()))
            .field("codec", &self.codec)
            .field("accepted", &self.accepted)
            .finish()
    }
}

impl Reply {
    /// A result in JSON.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self::encoded(Codec::Json, body)
    }

    /// A result in any codec. The caller has to be able to read it: one reads what it writes.
    #[must_use]
    pub fn encoded(codec: Codec, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            codec,
            accepted: None,
        }
    }

    /// What a broker took.
    pub(crate) fn accepted(accepted: Accepted) -> Self {
        Self {
            body: Bytes::new(),
            codec: Codec::Json,
            accepted: Some(accepted),
        }
    }
}

/// What came of it, or why nothing did.
pub type Outcome = Result<Reply, Failure>;

/// Wraps the work of a node. See the [module](self).
pub trait Middleware: Send + Sync + 'static {
    /// Does something before and after `next.run(invocation)`, or answers in its place.
    fn handle<'a>(&'a self, invocation: Invocation, next: Next<'a>) -> BoxFuture<'a, Outcome>;
}

/// What ends a chain: the sending, or the handler.
pub(crate) trait End: Send + Sync {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome>;
}

/// The rest of the chain.
pub struct Next<'a> {
    chain: &'a [Arc<dyn Middleware>],
    end: &'a dyn End,
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("remaining", &self.chain.len())
            .finish()
    }
}

impl<'a> Next<'a> {
    pub(crate) fn new(chain: &'a [Arc<dyn Middleware>], end: &'a dyn End) -> Self {
        Self { chain, end }
    }

    /// Runs the rest.
    pub fn run(self, invocation: Invocation) -> BoxFuture<'a, Outcome> {
        match self.chain.split_first() {
            Some((first, rest)) => first.handle(
                invocation,
                Next {
                    chain: rest,
                    end: self.end,
                },
            ),
            None => self.end.run(invocation),
        }
    }
}

/// Checks headers that are about to be sent: a middleware or a user may have put in anything.
pub(crate) fn check_headers(headers: &Headers, limits: &Limits) -> Result<(), Failure> {
    if headers.is_empty() {
        return Ok(());
    }
    let refuse = |name: &str, reason| {
        Err(Failure::Local(crate::LocalError::Header {
            name: name.to_owned(),
            reason,
        }))
    };
    headers.check(limits).map_err(|over| {
        Failure::Local(crate::LocalError::Limit {
            what: over.what,
            value: over.value,
            limit: over.limit,
            setting: over.setting,
        })
    })?;
    for (name, value) in headers.iter() {
        let legal = |byte: u8| byte.is_ascii_graphic();
        if name.is_empty() || name.len() > HEADER_NAME || !name.bytes().all(legal) {
            return refuse(name, "a name is 1 to 128 visible ASCII characters");
        }
        if name.starts_with(RESERVED) {
            return refuse(name, "names that start with `commlib-` are reserved");
        }
        // RabbitMQ takes their values for further addresses, and closes the channel on those that are no list.
        if ["CC", "BCC"].contains(&name) {
            return refuse(name, "`CC` and `BCC` mean something to brokers");
        }
        if value.len() > HEADER_VALUE {
            return refuse(name, "a value is at most 8 KiB");
        }
        if value.contains(|character: char| character.is_control()) {
            return refuse(name, "a value has no control characters");
        }
    }
    Ok(())
}

/// A panic in a handler: the text stays here, the peer learns only that there was one.
pub(crate) fn panicked(address: &str, panic: &(dyn std::any::Any + Send)) -> Status {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    tracing::error!(address, panic = text, "a handler panicked");
    Status::new(StatusCode::Internal, "the handler failed")
}
