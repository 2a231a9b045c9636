//! The form of RPC messages that commlib-py 0.13 writes and reads: `{"header": {…}, "data": …}` in the body, on Redis
//! and on AMQP alike. Its topics carry the bare data.
//!
//! What its peers do with a message was measured: a server answers nothing to data that is no object, a client takes
//! `null` for a timeout, and nothing of the form tells an error from a result. So a reply without a value is `{}`, and
//! an error stands both in the header, where this crate looks for it, and in the data, where a person sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::native::{string, write_error};
use super::{Envelope, Meta};

/// Writes a request with the address that the reply goes to.
#[must_use]
pub fn encode_request(message: &Envelope, reply_to: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.data.len() + 192);
    header(&mut out, reply_to, None, &message.meta);
    out.extend_from_slice(if message.data.is_empty() {
        b"{}"
    } else {
        &message.data
    });
    out.push(b'}');
    out
}

/// Writes a reply, with the correlation id of the request's header if it had one.
#[must_use]
pub fn encode_reply(message: &Envelope, correlation_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.data.len() + 192);
    header(&mut out, "", correlation_id, &message.meta);
    match &message.meta.error {
        Some(error) => {
            out.extend_from_slice(b"{\"error\":");
            write_error(&mut out, error);
            out.push(b'}');
        }
        None if message.data.is_empty() || message.data.as_ref() == b"null" => out.extend_from_slice(b"{}"),
        None => out.extend_from_slice(&message.data),
    }
    out.push(b'}');
    out
}

/// Writes everything up to the value of `data`.
fn header(out: &mut Vec<u8>, reply_to: &str, correlation_id: Option<&str>, meta: &Meta) {
    out.extend_from_slice(b"{\"header\":{\"reply_to\":");
    string(out, reply_to);
    out.extend_from_slice(b",\"correlation_id\":");
    match correlation_id {
        Some(id) => string(out, id),
        None => out.extend_from_slice(b"null"),
    }
    // Its timestamps count nanoseconds.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    out.extend_from_slice(b",\"timestamp\":");
    out.extend_from_slice(itoa::Buffer::new().format(now).as_bytes());
    out.extend_from_slice(b",\"content_type\":\"json\",\"encoding\":\"utf8\",\"agent\":\"commlib\"");
    if let Some(error) = &meta.error {
        out.extend_from_slice(b",\"error\":");
        write_error(out, error);
    }
    out.extend_from_slice(b"},\"data\":");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::super::{Dialect, WireError, native};
    use super::*;

    fn reply(data: &'static [u8]) -> Envelope {
        Envelope {
            data: Bytes::from_static(data),
            meta: Meta::default(),
        }
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_request_names_its_reply_address_and_reads_back() {
        let wire = Bytes::from(encode_request(&reply(b"{\"a\":1}"), "rpc-0"));
        let (message, dialect) = native::decode(&wire).unwrap();
        assert_eq!(
            (message.data.as_ref(), dialect),
            (&b"{\"a\":1}"[..], Dialect::CommlibPy)
        );
        assert_eq!(message.meta.reply_to.as_deref(), Some("rpc-0"));
        assert!(message.meta.timestamp.is_some());
        assert_eq!(parse(&wire)["header"]["agent"], "commlib");
    }

    #[test]
    fn a_reply_is_never_null() {
        assert_eq!(
            parse(&encode_reply(&reply(b"null"), None))["data"],
            serde_json::json!({})
        );
        assert_eq!(
            parse(&encode_reply(&reply(b""), None))["data"],
            serde_json::json!({})
        );
        let wire = encode_reply(&reply(b"7"), Some("c"));
        assert_eq!(
            (&parse(&wire)["data"], &parse(&wire)["header"]["correlation_id"]),
            (&7.into(), &"c".into())
        );
    }

    #[test]
    fn an_error_is_seen_by_both_kinds_of_peer() {
        let mut message = reply(b"");
        message.meta.error = Some(Box::new(WireError {
            code: "application".into(),
            message: "by zero".into(),
            details: Bytes::from_static(b"{\"type\":\"ByZero\"}"),
            execution: None,
        }));
        let wire = Bytes::from(encode_reply(&message, None));
        assert_eq!(parse(&wire)["data"]["error"]["details"]["type"], "ByZero");
        assert_eq!(native::decode(&wire).unwrap().0.meta.error, message.meta.error);
    }
}
