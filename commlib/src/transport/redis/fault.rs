//! What the broker's refusals mean.

use redis::ServerError;

use crate::error::Execution;
use crate::transport::{TransportError, TransportErrorKind};

/// Whether the broker does not know a script.
pub(super) fn is_unknown_script(error: &ServerError) -> bool {
    error.code() == "NOSCRIPT"
}

/// Whether a key is of another type than the command is for.
pub(super) fn is_wrong_type(error: &ServerError) -> bool {
    has(error, "WRONGTYPE")
}

/// Whether the user may not do this.
pub(super) fn is_forbidden(error: &ServerError) -> bool {
    has(error, "NOPERM") || error.code() == "NOAUTH"
}

/// Whether the broker reads its data and does nothing else yet.
pub(super) fn is_loading(error: &ServerError) -> bool {
    error.code() == "LOADING"
}

/// Whether the broker is a replica, which takes no writes: after a failover the master is somewhere else.
pub(super) fn is_read_only(error: &ServerError) -> bool {
    has(error, "READONLY")
}

/// Whether the broker refuses writes because its memory is full.
fn is_out_of_memory(error: &ServerError) -> bool {
    has(error, "OOM")
}

/// Before Redis 7 an error inside a script comes wrapped, with its code further on.
fn has(error: &ServerError, code: &str) -> bool {
    error.code() == code
        || error
            .details()
            .filter(|details| details.contains("running script"))
            .is_some_and(|details| details.split([' ', '-']).any(|word| word == code))
}

/// The error of a command that the broker refused, so that it did nothing. `what` says what was tried, where.
pub(super) fn refused(what: &str, error: &ServerError) -> TransportError {
    let (kind, advice) = if is_out_of_memory(error) {
        (
            TransportErrorKind::Blocked,
            "the broker's memory is full; raise its maxmemory or remove data",
        )
    } else if is_forbidden(error) {
        (
            TransportErrorKind::Forbidden,
            "the broker does not allow it to this user; check its ACL",
        )
    } else if is_wrong_type(error) {
        (
            TransportErrorKind::Conflict,
            "the key exists and is of another type; remove or rename it",
        )
    } else if error.code() == "MISCONF" {
        (
            TransportErrorKind::Blocked,
            "the broker cannot write its data to disk; see its log",
        )
    } else if is_read_only(error)
        || ["LOADING", "MASTERDOWN", "BUSY", "CLUSTERDOWN", "NOREPLICAS"].contains(&error.code())
    {
        (
            TransportErrorKind::Disconnected,
            "the broker takes no commands now",
        )
    } else {
        (TransportErrorKind::Protocol, "the broker refused it")
    };
    TransportError::did_not_run(kind, format!("cannot {what}: {advice} ({})", text(error)))
}

/// The error of something that the connection did not survive.
pub(super) fn lost(what: &str, reason: &str, execution: Execution) -> TransportError {
    TransportError {
        kind: TransportErrorKind::Disconnected,
        execution,
        message: format!("cannot {what}: the connection to the broker was lost ({reason})"),
    }
}

/// The broker's answer says nothing about what was asked.
pub(super) fn unexpected(what: &str) -> TransportError {
    TransportError::may_have_run(
        TransportErrorKind::Protocol,
        format!("cannot tell whether the {what} worked: the broker answered what was not asked for"),
    )
}

/// There is no connection.
pub(super) fn disconnected(what: &str) -> TransportError {
    TransportError::did_not_run(
        TransportErrorKind::Disconnected,
        format!("cannot {what}: there is no connection to the broker now; it is being restored"),
    )
}

/// The first part of what the broker said. Further on an error may quote a command with its arguments.
pub(super) fn text(error: &ServerError) -> String {
    shorten(error.code(), error.details().unwrap_or_default())
}

/// The same without a secret.
pub(super) fn text_without(error: &ServerError, secret: &str) -> String {
    let details = error.details().unwrap_or_default();
    if secret.is_empty() {
        return shorten(error.code(), details);
    }
    shorten(
        &error.code().replace(secret, "***"),
        &details.replace(secret, "***"),
    )
}

fn shorten(code: &str, details: &str) -> String {
    let line = details.lines().next().unwrap_or_default();
    code.chars()
        .take(40)
        .chain([' '])
        .chain(line.chars().take(120))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> ServerError {
        match redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_of_scripts_are_known_in_both_forms() {
        assert!(is_wrong_type(&error(
            "WRONGTYPE Operation against a key script: 1f, on @user_script:7."
        )));
        assert!(is_wrong_type(&error(
            "ERR Error running script (call to f_1): @user_script:7: WRONGTYPE Operation against a key"
        )));
        assert!(is_out_of_memory(&error(
            "ERR Error running script (call to f_1): @user_script: 8: -OOM command not allowed"
        )));
        assert!(!is_out_of_memory(&error("ERR unknown command OOM")));
        let kind = |text| refused("push", &error(text)).kind;
        assert_eq!(kind("NOPERM this user"), TransportErrorKind::Forbidden);
        assert_eq!(kind("LOADING Redis is"), TransportErrorKind::Disconnected);
        assert!(refused("push", &error(&"é".repeat(500))).message.len() < 500);
    }

    #[test]
    fn secrets_are_cut_out_before_the_text_is() {
        let repeated = error(&format!(
            "ERR unknown command 'HELLO', with args: {} canary",
            "x".repeat(80)
        ));
        assert!(text(&repeated).contains("can"));
        assert!(!text_without(&repeated, "canary").contains("can"));
    }
}
