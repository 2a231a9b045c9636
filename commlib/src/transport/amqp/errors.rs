//! What the client library's errors mean here. Their texts name queues and exchanges, never a password.

use std::time::Duration;

use lapin::ErrorKind;

use crate::error::{ConnectError, Execution};
use crate::transport::{TransportError, TransportErrorKind};

/// The broker's code, where the broker said something.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// Whether the broker closed a channel for what was done on it, and not the whole connection.
pub(super) fn closes_channel(error: &lapin::Error) -> bool {
    matches!(code(error), Some(311 | 313 | 403..=406))
}

/// An error of an operation, with what was attempted.
pub(super) fn operation(what: &str, error: &lapin::Error, execution: Execution) -> TransportError {
    let (kind, advice) = match code(error) {
        Some(403) => (
            TransportErrorKind::Forbidden,
            "; the user needs permission for it",
        ),
        Some(405) => (
            TransportErrorKind::Conflict,
            "; another connection owns the queue alone, as servers of commlib-py do: stop that server or serve another address",
        ),
        Some(406) if error.to_string().contains("size") => (TransportErrorKind::TooLarge, ""),
        Some(406) => (
            TransportErrorKind::Conflict,
            "; it exists with other properties: delete it at the broker or use another name",
        ),
        // An operator closed the connection, or the broker is going down.
        Some(320) => (TransportErrorKind::Disconnected, ""),
        Some(_) => (TransportErrorKind::Protocol, ""),
        None => (TransportErrorKind::Disconnected, ""),
    };
    TransportError {
        kind,
        execution,
        message: format!("{what} failed: {error}{advice}"),
    }
}

/// An operation that the broker did not answer in time.
pub(super) fn timeout(what: &str, limit: Duration, execution: Execution) -> TransportError {
    TransportError {
        kind: TransportErrorKind::Timeout,
        execution,
        message: format!("{what} failed: the broker did not answer within {limit:?}"),
    }
}

/// There is no connection to send on.
pub(super) fn disconnected(execution: Execution) -> TransportError {
    TransportError {
        kind: TransportErrorKind::Disconnected,
        execution,
        message: "the connection to the broker is down; it is being restored".into(),
    }
}

/// The channel or connection ended under a message that was written.
pub(super) fn channel_lost(cause: &lapin::Error) -> TransportError {
    TransportError {
        kind: TransportErrorKind::Disconnected,
        execution: Execution::MayHaveRun,
        message: format!("the connection to the broker was lost before it answered: {cause}"),
    }
}

/// The broker takes no publishes.
pub(super) fn blocked(reason: &str, execution: Execution) -> TransportError {
    TransportError {
        kind: TransportErrorKind::Blocked,
        execution,
        message: format!("the broker takes no messages now: {reason}"),
    }
}

/// Runs an operation at the broker within a limit. None of them sends a message.
pub(super) async fn bounded<T>(
    what: &str,
    limit: Duration,
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(limit, operation).await {
        Ok(result) => result.map_err(|error| self::operation(what, &error, Execution::DidNotRun)),
        Err(_) => Err(timeout(what, limit, Execution::DidNotRun)),
    }
}

/// An error of the greeting and login.
pub(super) fn login(address: &str, error: &lapin::Error) -> ConnectError {
    let address = address.to_owned();
    let reason = error.to_string();
    match code(error) {
        Some(403 | 530) => ConnectError::Auth { address, reason },
        _ => ConnectError::Unreachable { address, reason },
    }
}
