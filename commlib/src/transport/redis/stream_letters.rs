//! Dead letters of groups: a stream per group, with why and after how many attempts beside each message.

use std::collections::HashMap;

use bytes::Bytes;

use super::RedisTransport;
use super::jobs::{Call, Job, Tell};
use super::resp::Value;
use super::scripts::Script;
use super::stream::REQUESTS;
use crate::envelope::{Envelope, native};
use crate::transport::{DeadLetter, Disposal, TransportError, TransportErrorKind};

/// The stream of dead letters of a group below its namespace.
pub(super) fn letters_key(group: &str) -> String {
    format!("commlib:dead:{group}")
}

pub(super) async fn list(
    transport: &RedisTransport,
    group: &str,
    limit: usize,
) -> Result<Vec<DeadLetter>, TransportError> {
    let key = letters_key(group);
    let limit = limit.min(1 << 20).to_string();
    let words: [&[u8]; 6] = [b"XRANGE", key.as_bytes(), b"-", b"+", b"COUNT", limit.as_bytes()];
    let what = "list dead letters";
    transport.handle.check(what)?;
    let wait = transport.options.operation_timeout;
    let Value::Array(entries) = transport.handle.ask(wait, what, &words).await? else {
        return Err(TransportError::did_not_run(
            TransportErrorKind::Protocol,
            "cannot list dead letters: the broker answered what was not asked for",
        ));
    };
    Ok(entries
        .into_iter()
        .filter_map(|entry| letter(transport, entry))
        .collect())
}

fn letter(transport: &RedisTransport, entry: Value) -> Option<DeadLetter> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let id = parts.next()?.as_str()?.to_owned();
    let Value::Array(fields) = parts.next()? else {
        return None;
    };
    let mut named = HashMap::new();
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        named.insert(name.as_str()?.to_owned(), value);
    }
    let text = |name: &str| {
        named
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let bytes = match named.get("m") {
        Some(Value::Bulk(bytes)) => bytes.clone(),
        Some(Value::Skipped(skipped)) => skipped.head.clone(),
        _ => Bytes::new(),
    };
    // What can't be read has no more to it than its bytes.
    let mut message = native::decode_topic(&bytes).unwrap_or_else(|_| Envelope {
        data: bytes,
        ..Envelope::default()
    });
    let clock = &transport.handle.clock;
    clock.read(&mut message.meta);
    // The broker names entries by its clock, in ms.
    let died = id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
    Some(DeadLetter {
        topic: text("a"),
        reason: text("r"),
        attempts: text("n").parse().unwrap_or(0),
        body: message.data,
        content_type: message.meta.content_type,
        content_encoding: message.meta.content_encoding,
        headers: message.meta.headers,
        timestamp: message.meta.timestamp,
        died: died.map(|ms| clock.to_local(ms.saturating_mul(1000))),
        id,
    })
}

pub(super) async fn dispose(
    transport: &RedisTransport,
    group: &str,
    id: &str,
    disposal: Disposal,
) -> Result<bool, TransportError> {
    let is_id = id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if id.is_empty() || !is_id {
        return Ok(false);
    }
    let key = letters_key(group);
    let answer = match disposal {
        Disposal::Discard => {
            let words: [&[u8]; 3] = [b"XDEL", key.as_bytes(), id.as_bytes()];
            let what = "discard a dead letter";
            transport.handle.check(what)?;
            transport
                .handle
                .ask(transport.options.operation_timeout, what, &words)
                .await?
        }
        Disposal::Resend => {
            let what = "send a dead letter again";
            transport
                .limited(what, |done| {
                    Job::Call(Call {
                        script: Script::Resend,
                        keys: vec![key],
                        arguments: vec![
                            Bytes::copy_from_slice(id.as_bytes()),
                            transport.options.limits.backlog.to_string().into(),
                            REQUESTS.into(),
                        ],
                        what,
                        done: Some(Tell::Future(done)),
                    })
                })
                .await?
        }
    };
    Ok(answer == Value::Int(1))
}
