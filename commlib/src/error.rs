//! Errors: what a call, a publish, a subscription or a connect can end with.
//!
//! Every error says what happened to the work: it *did not run*, it *ran and failed*, or it *may have run*
//! ([`Execution`]). On the wire an error is a code, a message and details ([`Status`]); a method's own error type
//! travels in the details and comes back typed in [`CallError::App`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::codec::Codec;

/// What is known about the execution of work whose outcome is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Execution {
    /// The handler did not run and will not run.
    DidNotRun,
    /// The handler ran and failed.
    Failed,
    /// The handler may have run, may be running, or may still run.
    MayHaveRun,
}

impl Execution {
    /// The word for this on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DidNotRun => "not_run",
            Self::Failed => "failed",
            Self::MayHaveRun => "unknown",
        }
    }

    /// Reads the word on the wire; an unknown word means that nothing is known.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        match word {
            "not_run" => Self::DidNotRun,
            "failed" => Self::Failed,
            _ => Self::MayHaveRun,
        }
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DidNotRun => "did not run",
            Self::Failed => "ran and failed",
            Self::MayHaveRun => "may have run",
        })
    }
}

/// Why a call failed, in the words that travel between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StatusCode {
    /// The time for the call ran out.
    DeadlineExceeded,
    /// The caller gave up.
    Canceled,
    /// Nobody serves the address.
    NoResponders,
    /// The server does not have the method.
    Unimplemented,
    /// The request could not be understood.
    InvalidArgument,
    /// A limit was hit: size, concurrency, queue length.
    ResourceExhausted,
    /// The broker or the server can't take the call now.
    Unavailable,
    /// The server failed in a way that it does not describe.
    Internal,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller did not say who it is, or was not believed.
    Unauthenticated,
}

impl StatusCode {
    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Canceled => "canceled",
            Self::NoResponders => "no_responders",
            Self::Unimplemented => "unimplemented",
            Self::InvalidArgument => "invalid_argument",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// Reads a code from the wire. A code of a later version reads as [`Internal`](Self::Internal).
    #[must_use]
    pub fn from_wire(code: &str) -> Self {
        match code {
            "deadline_exceeded" => Self::DeadlineExceeded,
            "canceled" => Self::Canceled,
            "no_responders" => Self::NoResponders,
            "unimplemented" => Self::Unimplemented,
            "invalid_argument" => Self::InvalidArgument,
            "resource_exhausted" => Self::ResourceExhausted,
            "unavailable" => Self::Unavailable,
            "permission_denied" => Self::PermissionDenied,
            "unauthenticated" => Self::Unauthenticated,
            _ => Self::Internal,
        }
    }

    /// What a code says about the execution when nothing more precise is known.
    const fn execution(self) -> Execution {
        match self {
            Self::DeadlineExceeded | Self::Canceled | Self::Unavailable => Execution::MayHaveRun,
            Self::Internal => Execution::Failed,
            Self::NoResponders
            | Self::Unimplemented
            | Self::InvalidArgument
            | Self::ResourceExhausted
            | Self::PermissionDenied
            | Self::Unauthenticated => Execution::DidNotRun,
        }
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason in the details of a status, where a server has more to do than it can.
const OVERLOADED: &str = "overloaded";

/// A failure that is not the method's own error: found by the runtime here, or reported by the peer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Why.
    pub code: StatusCode,
    /// What happened, for people. From a peer it is untrusted text.
    pub message: String,
    /// More, for programs.
    pub details: Option<Value>,
    /// What happened to the work.
    pub execution: Execution,
}

impl Status {
    /// A status with the execution that its code implies.
    #[must_use]
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            execution: code.execution(),
        }
    }

    /// A server's refusal of a request that waited too long for its turn.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::ResourceExhausted, message)
            .with_execution(Execution::DidNotRun)
            .with_details(json!({ "reason": OVERLOADED }))
    }

    /// Whether this is one, also from a peer: not a limit that the request itself was over.
    pub(crate) fn is_overload(&self) -> bool {
        let reason = self.details.as_ref().and_then(|details| details.get("reason"));
        self.code == StatusCode::ResourceExhausted && reason.is_some_and(|reason| reason == OVERLOADED)
    }

    /// The same with another statement about the execution.
    #[must_use]
    pub fn with_execution(mut self, execution: Execution) -> Self {
        self.execution = execution;
        self
    }

    /// The same with details for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.execution, self.message)
    }
}

impl std::error::Error for Status {}

/// A failure on this side that involves no peer's status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The arguments could not be encoded. Nothing was sent.
    #[error("cannot encode the request: {0}")]
    Encode(String),
    /// The reply came but is not of the expected type: the method ran.
    #[error("cannot decode the reply: {0}")]
    Decode(String),
    /// A limit of this side was exceeded. Nothing was sent.
    #[error("{what} is {size} bytes, over the limit of {limit}; raise it with `Limits::body_out`")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another limit of this side was exceeded. Nothing was sent.
    #[error("{what} {value}, over the limit of {limit}; raise it with `Limits::{setting}`")]
    Limit {
        /// What is too many or too much, as the beginning of a sentence.
        what: &'static str,
        /// How many or how much.
        value: usize,
        /// The limit.
        limit: usize,
        /// Its name in [`Limits`](crate::Limits).
        setting: &'static str,
    },
    /// An address outside the grammar. Nothing was sent.
    #[error("{0}")]
    Address(String),
    /// A header that may not be sent.
    #[error("header {name:?}: {reason}")]
    Header {
        /// The name of the header.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The node was shut down. Nothing was sent.
    #[error("the node is shut down")]
    Closed,
}

/// How a call ended when it did not succeed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The method returned its own error.
    App(E),
    /// The call failed: no time, no responder, no connection, refused, crashed.
    Status(Status),
    /// This side could not make the call or understand the reply.
    Local(LocalError),
}

impl<E> CallError<E> {
    /// What happened to the work.
    #[must_use]
    pub fn execution(&self) -> Execution {
        match self {
            Self::App(_) | Self::Local(LocalError::Decode(_)) => Execution::Failed,
            Self::Status(status) => status.execution,
            Self::Local(_) => Execution::DidNotRun,
        }
    }

    /// The status code, unless the error is the method's own or local.
    #[must_use]
    pub fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::App(_) | Self::Local(_) => None,
        }
    }

    /// Whether the time ran out.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.code() == Some(StatusCode::DeadlineExceeded)
    }

    /// Whether nobody serves the address.
    #[must_use]
    pub fn is_no_responders(&self) -> bool {
        self.code() == Some(StatusCode::NoResponders)
    }

    /// The method's own error, if it is one.
    pub fn into_app(self) -> Option<E> {
        match self {
            Self::App(error) => Some(error),
            Self::Status(_) | Self::Local(_) => None,
        }
    }

    /// Turns the method's own error into another type.
    pub fn map_app<F>(self, map: impl FnOnce(E) -> F) -> CallError<F> {
        match self {
            Self::App(error) => CallError::App(map(error)),
            Self::Status(status) => CallError::Status(status),
            Self::Local(error) => CallError::Local(error),
        }
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(error) => error.fmt(f),
            Self::Status(status) => status.fmt(f),
            Self::Local(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::App(error) => Some(error),
            Self::Status(status) => Some(status),
            Self::Local(error) => Some(error),
        }
    }
}

impl<E> From<Status> for CallError<E> {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl<E> From<LocalError> for CallError<E> {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}

/// The error type of methods that return no error of their own. It has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum NoError {}

impl fmt::Display for NoError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for NoError {}

/// Why a node could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not one that a transport takes. The text never repeats a password.
    #[error("broker URL: {0}")]
    Url(String),
    /// A setting of the node is unusable.
    #[error("node settings: {0}")]
    Settings(String),
    /// The URL's transport was left out of the build.
    #[error("this build has no {scheme} transport; enable the feature `{feature}` of the crate commlib")]
    NotBuilt {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The feature to enable.
        feature: &'static str,
    },
    /// Nothing answered as a broker at the address.
    #[error("cannot reach the broker at {address}: {reason}; check that it runs, or connect with `.lazy()`")]
    Unreachable {
        /// Host and port, or the socket's path.
        address: String,
        /// What the system or the broker said.
        reason: String,
    },
    /// The broker refused the user, the password, the virtual host or the database.
    #[error("the broker at {address} refused the login: {reason}; check user, password and virtual host")]
    Auth {
        /// Host and port, or the socket's path.
        address: String,
        /// What the broker said.
        reason: String,
    },
    /// A secure connection could not be made. It is never replaced by a plain one.
    #[error("no secure connection to {address}: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// What failed.
        reason: String,
    },
    /// The broker did not finish its greeting in time.
    #[error("the broker at {address} did not answer within {limit:?}")]
    Timeout {
        /// Host and port, or the socket's path.
        address: String,
        /// The limit that was kept.
        limit: Duration,
    },
    /// A setting asks for something that the transport does not have.
    #[error("the {transport} transport {reason}")]
    Unsupported {
        /// The transport's name.
        transport: &'static str,
        /// What it lacks, and what to do.
        reason: String,
    },
}

/// Why a publish, a subscribe or a serve failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// An address, a pattern or a topic argument is outside the grammar. Nothing was sent.
    #[error("{text:?} is no usable address: {reason}")]
    Address {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A group of a durable topic has members, so that it is not removed.
    #[error(
        "the group `{group}` of `{pattern}` has members on {transport}; end them before the group is removed"
    )]
    GroupInUse {
        /// The name of the transport.
        transport: &'static str,
        /// The group.
        group: String,
        /// What it listens to, namespace included.
        pattern: String,
    },
    /// A message or header could not be encoded, or is over a limit. Nothing was sent.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The broker or the connection to it failed.
    #[error(transparent)]
    Status(#[from] Status),
}

impl NodeError {
    /// What happened to the message.
    #[must_use]
    pub fn execution(&self) -> Execution {
        match self {
            Self::Address { .. } | Self::GroupInUse { .. } | Self::Local(_) => Execution::DidNotRun,
            Self::Status(status) => status.execution,
        }
    }

    /// The status code, where the broker or the connection failed.
    #[must_use]
    pub fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::Address { .. } | Self::GroupInUse { .. } | Self::Local(_) => None,
        }
    }
}

/// A failure whose own error type, if it has one, is still encoded: what middleware and generated code see.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The method's own error.
    App(AppFailure),
    /// As in [`CallError::Status`].
    Status(Status),
    /// As in [`CallError::Local`].
    Local(LocalError),
}

/// The method's own error, encoded. `Debug` does not show the details.
#[derive(Clone)]
#[non_exhaustive]
pub struct AppFailure {
    /// For people: the error's `Display`.
    pub message: String,
    /// The encoded error.
    pub details: bytes::Bytes,
    /// How it is encoded.
    pub codec: Codec,
}

impl fmt::Debug for AppFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppFailure")
            .field("message", &self.message)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl AppFailure {
    pub(crate) fn new(message: String, codec: Codec, details: bytes::Bytes) -> Self {
        Self {
            message,
            details,
            codec,
        }
    }
}

impl Failure {
    /// As [`CallError::execution`].
    pub(crate) fn execution(&self) -> Execution {
        match self {
            Self::App(_) | Self::Local(LocalError::Decode(_)) => Execution::Failed,
            Self::Status(status) => status.execution,
            Self::Local(_) => Execution::DidNotRun,
        }
    }

    /// As [`CallError::code`].
    pub(crate) fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::App(_) | Self::Local(_) => None,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}
