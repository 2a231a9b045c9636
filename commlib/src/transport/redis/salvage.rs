//! Whom to answer about a message that was too large to read, from its two ends.

use serde_json::value::RawValue;

use super::resp::Skipped;
use crate::envelope::{Malformed, msgpack};

/// What the `meta` of a native message, at its end in JSON and at its start in MessagePack, or the `header` at the start of one of commlib-py, says of the way back.
/// An ambiguous message misleads its own sender at most: reply addresses are checked wherever they come from.
pub(super) fn route(skipped: &Skipped) -> Malformed {
    let mut found = Malformed::new(format!("it has {} bytes, which is over the limit", skipped.size));
    if msgpack::is_message(&skipped.head) {
        return Malformed {
            reason: found.reason,
            ..msgpack::route(&skipped.head)
        };
    }
    let route = last(&skipped.tail, b"\"meta\":").or_else(|| first(&skipped.head, b"\"header\":"));
    if let Some(route) = route {
        found.reply_to = route.reply_to.filter(|reply_to| !reply_to.is_empty());
        found.correlation_id = route.correlation_id.or(route.id);
    }
    found
}

#[derive(serde::Deserialize)]
struct Route {
    reply_to: Option<String>,
    id: Option<String>,
    correlation_id: Option<String>,
}

fn last(bytes: &[u8], name: &[u8]) -> Option<Route> {
    let at = bytes.windows(name.len()).rposition(|window| window == name)?;
    object(&bytes[at + name.len()..])
}

fn first(bytes: &[u8], name: &[u8]) -> Option<Route> {
    let at = bytes.windows(name.len()).position(|window| window == name)?;
    object(&bytes[at + name.len()..])
}

/// The object that `bytes` begins with, whatever follows.
fn object(bytes: &[u8]) -> Option<Route> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    serde_json::from_slice(values.next()?.ok()?.get().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::resp::KEPT;
    use super::*;
    use crate::envelope::{Envelope, Meta, commlib_py, native};

    fn skipped(bytes: &[u8]) -> Skipped {
        Skipped {
            size: bytes.len(),
            head: Bytes::copy_from_slice(&bytes[..KEPT]),
            tail: Bytes::copy_from_slice(&bytes[bytes.len() - KEPT..]),
        }
    }

    fn message() -> Envelope {
        Envelope {
            data: format!("\"{}\"", "x".repeat(100_000)).into(),
            meta: Meta {
                id: Some("the-id".into()),
                ..Meta::default()
            },
        }
    }

    #[test]
    fn finds_the_way_back_in_every_form() {
        let route = route(&skipped(&native::encode(&message(), Some("list"))));
        assert_eq!(route.reply_to.as_deref(), Some("list"));
        assert_eq!(route.correlation_id.as_deref(), Some("the-id"));
        let mut binary = message();
        binary.meta.content_type = Some("application/msgpack".into());
        let route = super::route(&skipped(&native::encode(&binary, Some("list"))));
        assert_eq!(route.reply_to.as_deref(), Some("list"));
        assert_eq!(route.correlation_id.as_deref(), Some("the-id"));
        let route = super::route(&skipped(&commlib_py::encode_request(&message(), "rpc-1")));
        assert_eq!(route.reply_to.as_deref(), Some("rpc-1"));
    }

    #[test]
    fn finds_nothing_in_garbage() {
        for text in [
            "x",
            "\"meta\":",
            "\"meta\":{",
            "\"header\":[1]",
            "\"meta\":{\"reply_to\":7}",
        ] {
            let route = route(&skipped(text.repeat(20_000).as_bytes()));
            assert_eq!((route.reply_to, route.correlation_id), (None, None), "{text}");
        }
    }
}
