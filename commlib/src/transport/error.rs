//! Why a transport failed, and what callers are told of it.

use crate::error::{Execution, Status, StatusCode};

/// Why a transport failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// Nobody consumes the address.
    NoResponders,
    /// The queue is at its limit.
    QueueFull,
    /// The broker has no memory or disk left for messages, or blocks publishers.
    Blocked,
    /// There is no connection now.
    Disconnected,
    /// The message is larger than the broker takes.
    TooLarge,
    /// The broker does not allow it to this user.
    Forbidden,
    /// A queue or key exists with other properties or of another type.
    Conflict,
    /// The broker did not answer within the transport's own limit.
    Timeout,
    /// The backend lacks what was asked for.
    Unsupported,
    /// The transport is closed.
    Closed,
    /// The broker answered what it should not.
    Protocol,
}

/// A transport's failure.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// Why.
    pub kind: TransportErrorKind,
    /// What happened to the message.
    pub execution: Execution,
    /// What happened, where, and what to do. Never a secret, never a body.
    pub message: String,
}

impl TransportError {
    /// An error of something that certainly did not happen.
    #[must_use]
    pub fn did_not_run(kind: TransportErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            execution: Execution::DidNotRun,
            message: message.into(),
        }
    }

    /// An error of something that may have happened nevertheless.
    #[must_use]
    pub fn may_have_run(kind: TransportErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            execution: Execution::MayHaveRun,
            message: message.into(),
        }
    }

    /// The error of every operation after `close`.
    #[must_use]
    pub fn closed() -> Self {
        Self::did_not_run(TransportErrorKind::Closed, "the connection is closed")
    }

    /// The error of requests in flight when the transport is closed.
    #[must_use]
    pub fn closed_in_flight() -> Self {
        Self::may_have_run(
            TransportErrorKind::Closed,
            "the node was shut down before the reply came",
        )
    }
}

impl From<TransportError> for Status {
    fn from(error: TransportError) -> Self {
        let code = match error.kind {
            TransportErrorKind::NoResponders => StatusCode::NoResponders,
            TransportErrorKind::QueueFull | TransportErrorKind::Blocked | TransportErrorKind::TooLarge => {
                StatusCode::ResourceExhausted
            }
            TransportErrorKind::Disconnected | TransportErrorKind::Closed => StatusCode::Unavailable,
            TransportErrorKind::Forbidden => StatusCode::PermissionDenied,
            TransportErrorKind::Timeout => StatusCode::DeadlineExceeded,
            TransportErrorKind::Unsupported => StatusCode::Unimplemented,
            TransportErrorKind::Conflict | TransportErrorKind::Protocol => StatusCode::Internal,
        };
        Self::new(code, error.message).with_execution(error.execution)
    }
}
