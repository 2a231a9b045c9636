//! The native envelope, `{"data": …, "meta": {…}}`: written by hand into one buffer, read borrowed. Bodies that are no
//! JSON travel in its form of MessagePack.
//!
//! `data` is never parsed here: reading finds where it begins and ends and shares those bytes.

mod if_text;
mod scan;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use self::if_text::IfText;
use super::{Dialect, Encoded, Envelope, Headers, JSON, Malformed, Meta, WireError, msgpack};
use crate::codec::json::plain_len;
use crate::error::Execution;

/// What every envelope of JSON says of its body.
const PROPERTIES: &[u8; 74] =
    b"\"properties\":{\"content_type\":\"application/json\",\"content_encoding\":\"utf8\"}";

/// Writes an envelope. `reply_to` takes the place of [`Meta::reply_to`].
#[must_use]
pub fn encode(message: &Envelope, reply_to: Option<&str>) -> Vec<u8> {
    write(message, reply_to, false).bytes
}

/// As [`encode`], with a large body left apart.
#[cfg(feature = "redis")]
#[must_use]
pub(crate) fn encode_apart(message: &Envelope, reply_to: Option<&str>) -> Encoded {
    write(message, reply_to, true)
}

fn write(message: &Envelope, reply_to: Option<&str>, apart: bool) -> Encoded {
    let meta = &message.meta;
    if meta.content_type.is_some() || meta.content_encoding.is_some() {
        return msgpack::encode(message, reply_to, apart);
    }
    let mut encoded = Encoded::for_body(&message.data, 256, apart);
    encoded.bytes.extend_from_slice(b"{\"data\":");
    if message.data.is_empty() {
        encoded.bytes.extend_from_slice(b"null");
    } else {
        encoded.put(&message.data, apart);
    }
    let out = &mut encoded.bytes;
    out.extend_from_slice(b",\"meta\":{");
    out.extend_from_slice(PROPERTIES);
    if let Some(timestamp) = meta.timestamp {
        number(out, b",\"timestamp\":", timestamp);
    }
    if let Some(timeout) = meta.timeout_ms {
        number(out, b",\"timeout_ms\":", timeout);
    }
    let texts: [(&[u8], Option<&str>); 3] = [
        (b",\"id\":", meta.id.as_deref()),
        (b",\"correlation_id\":", meta.correlation_id.as_deref()),
        (b",\"reply_to\":", reply_to.or(meta.reply_to.as_deref())),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            out.extend_from_slice(key);
            string(out, text);
        }
    }
    if !meta.headers.is_empty() {
        key(out, "headers");
        out.push(b'{');
        for (index, (name, value)) in meta.headers.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(out, name);
            out.push(b':');
            string(out, value);
        }
        out.push(b'}');
    }
    if let Some(error) = &meta.error {
        key(out, "error");
        write_error(out, error);
    }
    out.extend_from_slice(b"}}");
    encoded
}

/// Writes the object that stands for an error.
pub(super) fn write_error(out: &mut Vec<u8>, error: &WireError) {
    out.extend_from_slice(b"{\"code\":");
    string(out, &error.code);
    key(out, "message");
    string(out, &error.message);
    if let Some(execution) = error.execution {
        key(out, "execution");
        string(out, execution.as_str());
    }
    if !error.details.is_empty() {
        key(out, "details");
        out.extend_from_slice(&error.details);
    }
    out.push(b'}');
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    if plain_len(text.as_bytes()) == text.len() {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, text).is_err() {
        // Writing a string to a Vec has no way to fail; an empty one keeps the envelope whole if it ever does.
        out.extend_from_slice(b"\"\"");
    }
}

/// Reads a message from a work queue or a reply list, native or of commlib-py, and says which.
///
/// # Errors
/// When it is neither; the error carries the reply address where there is one.
pub fn decode(bytes: &Bytes) -> Result<(Envelope, Dialect), Malformed> {
    if msgpack::is_message(bytes) {
        return msgpack::decode(bytes).map(|message| (message, Dialect::Native));
    }
    match usual(bytes) {
        Some(message) => Ok((message, Dialect::Native)),
        None => in_any_form(bytes),
    }
}

/// As [`decode`], of JSON in any form.
pub(crate) fn in_any_form(bytes: &Bytes) -> Result<(Envelope, Dialect), Malformed> {
    let wire: Wire<'_> = match serde_json::from_slice(bytes) {
        Ok(wire) => wire,
        Err(error) => return Err(salvage(bytes, &error)),
    };
    match (wire.data, wire.meta, wire.header) {
        (data, Some(meta), _) => Ok((envelope(bytes, data.map(RawValue::get), meta), Dialect::Native)),
        (Some(data), None, Some(header)) => Ok((
            envelope(bytes, Some(data.get()), header.into()),
            Dialect::CommlibPy,
        )),
        (None, None, Some(_)) => Err(Malformed::new("it has a `header` but no `data`")),
        (_, None, None) => Err(Malformed::new("it has neither `meta` nor `header`")),
    }
}

/// Reads a reply, native or of commlib-py: which request it answers, if it says so, and apart from that the message.
///
/// # Errors
/// As [`decode`].
pub fn decode_reply(bytes: &Bytes) -> Result<(Option<Cow<'_, str>>, Envelope), Malformed> {
    let mut meta = WireMeta::default();
    if let Some(data) = usual_parts(bytes, &mut meta) {
        let id = meta.correlation_id.take();
        return Ok((id, envelope(bytes, Some(data), meta)));
    }
    let (mut message, _) = decode(bytes)?;
    let id = message.meta.correlation_id.take();
    Ok((id.map(Cow::Owned), message))
}

/// Reads a topic message: a native envelope, or any other JSON as a bare body.
///
/// # Errors
/// When it is no JSON at all.
pub fn decode_topic(bytes: &Bytes) -> Result<Envelope, Malformed> {
    if msgpack::is_message(bytes) {
        return msgpack::decode(bytes);
    }
    match usual(bytes) {
        Some(message) => Ok(message),
        None => topic_in_any_form(bytes),
    }
}

/// As [`decode_topic`], of JSON in any form.
pub(crate) fn topic_in_any_form(bytes: &Bytes) -> Result<Envelope, Malformed> {
    // Only an object whose first members are ours is an envelope; a bare body may have any shape.
    if let Ok(Wire {
        data: Some(data),
        meta: Some(meta),
        header: None,
        others: false,
    }) = serde_json::from_slice(bytes)
    {
        return Ok(envelope(bytes, Some(data.get()), meta));
    }
    match serde_json::from_slice::<&RawValue>(bytes) {
        Ok(raw) => Ok(Envelope {
            data: slice(bytes, raw.get()),
            meta: Meta::default(),
        }),
        Err(error) => Err(Malformed::new(reason(&error))),
    }
}

/// Reads an envelope in the form that is written here.
pub(crate) fn usual(bytes: &Bytes) -> Option<Envelope> {
    let mut meta = WireMeta::default();
    let data = usual_parts(bytes, &mut meta)?;
    Some(envelope(bytes, Some(data), meta))
}

fn usual_parts<'a>(bytes: &'a Bytes, meta: &mut WireMeta<'a>) -> Option<&'a str> {
    scan::envelope(std::str::from_utf8(bytes).ok()?, meta)
}

fn envelope(bytes: &Bytes, data: Option<&str>, meta: WireMeta<'_>) -> Envelope {
    let owned = |text: Cow<'_, str>| text.into_owned();
    Envelope {
        data: data.map(|data| slice(bytes, data)).unwrap_or_default(),
        meta: Meta {
            id: meta.id.map(owned),
            correlation_id: meta.correlation_id.map(owned),
            reply_to: meta.reply_to.map(owned),
            timestamp: meta.timestamp,
            timeout_ms: meta.timeout_ms,
            content_type: meta
                .properties
                .and_then(|properties| properties.content_type)
                .filter(|content_type| content_type != JSON)
                .map(owned),
            // What is compressed travels in MessagePack.
            content_encoding: None,
            headers: meta.headers,
            error: meta.error.map(|error| {
                Box::new(WireError {
                    code: error.code.into_owned(),
                    message: error.message.into_owned(),
                    details: error
                        .details
                        .map(|details| slice(bytes, details.get()))
                        .unwrap_or_default(),
                    execution: error.execution.as_deref().map(Execution::from_wire),
                })
            }),
        },
    }
}

/// The part of `bytes` that `text` borrows from.
fn slice(bytes: &Bytes, text: &str) -> Bytes {
    bytes.slice_ref(text.as_bytes())
}

/// What is wrong and where. Of a value that is none of the expected, the parser would repeat all of it.
fn reason(error: &serde_json::Error) -> String {
    if error.classify() != serde_json::error::Category::Data {
        return error.to_string();
    }
    let (line, column) = (error.line(), error.column());
    format!("a value is not what must stand there at line {line} column {column}")
}

/// Looks for somebody to answer in a message that can't be read.
fn salvage(bytes: &Bytes, error: &serde_json::Error) -> Malformed {
    #[derive(serde::Deserialize)]
    struct Loose<'a> {
        #[serde(borrow)]
        meta: Option<&'a RawValue>,
        #[serde(borrow)]
        header: Option<&'a RawValue>,
    }
    #[derive(serde::Deserialize)]
    struct Route {
        reply_to: Option<IfText>,
        id: Option<IfText>,
        correlation_id: Option<IfText>,
    }
    let text = |value: Option<IfText>| value?.0;
    // The body may be what is no text; its sender is told all the same.
    let lossy = String::from_utf8_lossy(bytes);
    let route = serde_json::from_slice::<Loose<'_>>(lossy.as_bytes())
        .ok()
        .and_then(|loose| loose.meta.or(loose.header))
        .and_then(|raw| serde_json::from_slice::<Route>(raw.get().as_bytes()).ok());
    let mut malformed = Malformed::new(reason(error));
    if let Some(route) = route {
        malformed.reply_to = text(route.reply_to);
        malformed.correlation_id = text(route.correlation_id).or(text(route.id));
    }
    malformed
}

struct Wire<'a> {
    data: Option<&'a RawValue>,
    meta: Option<WireMeta<'a>>,
    header: Option<PyHeader<'a>>,
    others: bool,
}

// By hand, because a derived impl would take `null` data for absent and could not tell whether there are others.
impl<'de: 'a, 'a> Deserialize<'de> for Wire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WireVisitor;

        impl<'de> Visitor<'de> for WireVisitor {
            type Value = Wire<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an envelope object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
                let mut wire = Wire {
                    data: None,
                    meta: None,
                    header: None,
                    others: false,
                };
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "data" => wire.data = Some(map.next_value()?),
                        "meta" => wire.meta = Some(map.next_value()?),
                        "header" => wire.header = Some(map.next_value()?),
                        _ => {
                            wire.others = true;
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(wire)
            }
        }

        deserializer.deserialize_map(WireVisitor)
    }
}

#[derive(Debug, serde::Deserialize, Default)]
struct WireMeta<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reply_to: Option<Cow<'a, str>>,
    timestamp: Option<u64>,
    timeout_ms: Option<u64>,
    #[serde(borrow)]
    properties: Option<WireProperties<'a>>,
    #[serde(default)]
    headers: Headers,
    /// In a box, as nearly all messages have none, and all are moved.
    #[serde(borrow)]
    error: Option<Box<WireErrorObject<'a>>>,
}

#[derive(Debug, serde::Deserialize)]
struct WireProperties<'a> {
    #[serde(borrow)]
    content_type: Option<Cow<'a, str>>,
}

#[derive(Debug, serde::Deserialize)]
struct WireErrorObject<'a> {
    #[serde(borrow, default)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
    #[serde(borrow)]
    execution: Option<Cow<'a, str>>,
}

/// The header of commlib-py. Its content type is a short name that says nothing.
#[derive(serde::Deserialize)]
struct PyHeader<'a> {
    #[serde(borrow)]
    reply_to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    /// In ns; read by hand, as its peers send other numbers too.
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<Box<WireErrorObject<'a>>>,
}

impl<'a> From<PyHeader<'a>> for WireMeta<'a> {
    fn from(header: PyHeader<'a>) -> Self {
        Self {
            reply_to: header.reply_to,
            correlation_id: header.correlation_id,
            timestamp: header
                .timestamp
                .and_then(|ns| ns.get().parse::<u64>().ok())
                .map(|ns| ns / 1000),
            error: header.error,
            ..Self::default()
        }
    }
}

impl<'de> Deserialize<'de> for Headers {
    /// Takes strings and skips other values, which are not headers of ours.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadersVisitor;

        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_unit<E>(self) -> Result<Headers, E> {
                Ok(Headers::new())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::new();
                while let Some((name, IfText(value))) = map.next_entry::<String, _>()? {
                    if let Some(value) = value {
                        headers.receive(name, value);
                    }
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_any(HeadersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn shares_the_body_instead_of_copying_it() {
        let wire = bytes(r#"{"data": {"a": [1, 2]}, "meta": {}}"#);
        let (message, dialect) = decode(&wire).unwrap();
        assert_eq!(
            (message.data.as_ref(), dialect),
            (&br#"{"a": [1, 2]}"#[..], Dialect::Native)
        );
        assert!(wire.as_ptr_range().contains(&message.data.as_ptr()));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_content() {
        let long = "canary".repeat(1000);
        for text in [
            format!("\"{long}\""),
            format!("{{\"data\":1,\"meta\":\"{long}\"}}"),
            format!("{{\"data\":1,\"meta\":{{\"timestamp\":\"{long}\"}}}}"),
            format!("{{\"header\":\"{long}\"}}"),
            format!("{{{long}"),
        ] {
            let reason = decode(&bytes(&text)).unwrap_err().reason;
            assert!(reason.len() < 100 && !reason.contains("canary"), "{reason}");
            assert!(reason.contains("line 1"), "{reason}");
        }
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        let wire = bytes(
            r#"{"v":2,"data":null,"meta":{"later":[1],"headers":{"a":"b","n":1},"properties":{"x":1}}}"#,
        );
        let (message, _) = decode(&wire).unwrap();
        assert_eq!(message.data.as_ref(), b"null");
        assert_eq!(message.meta.headers.get("a"), Some("b"));
        assert_eq!(message.meta.headers.len(), 1);
    }

    #[test]
    fn tells_which_request_a_reply_answers() {
        for wire in [
            r#"{"data":7,"meta":{"correlation_id":"c"}}"#,
            r#"{"meta":{"correlation_id":"\u0063"},"data":7}"#,
            r#"{"header":{"correlation_id":"c"},"data":7}"#,
        ] {
            let wire = bytes(wire);
            let (id, reply) = decode_reply(&wire).unwrap();
            assert_eq!((id.as_deref(), reply.data.as_ref()), (Some("c"), &b"7"[..]));
        }
        assert_eq!(decode_reply(&bytes(r#"{"data":7,"meta":{}}"#)).unwrap().0, None);
        assert!(decode_reply(&bytes("7")).is_err());
    }

    #[test]
    fn tells_the_dialects_apart() {
        let wire = bytes(r#"{"header":{"reply_to":"rpc-1","timestamp":"x"},"data":{"a":1}}"#);
        let (message, dialect) = decode(&wire).unwrap();
        assert_eq!(
            (message.meta.reply_to.as_deref(), dialect),
            (Some("rpc-1"), Dialect::CommlibPy)
        );
        assert!(decode(&bytes(r#"{"a":1}"#)).is_err());
        assert!(decode(&bytes("[]")).is_err());
        assert!(decode(&bytes("")).is_err());
    }

    #[test]
    fn finds_whom_to_answer_in_a_broken_envelope() {
        let error = decode(&bytes(
            r#"{"data":{},"meta":{"reply_to":"r","id":"i","timeout_ms":"soon"}}"#,
        ))
        .unwrap_err();
        assert_eq!(
            (error.reply_to.as_deref(), error.correlation_id.as_deref()),
            (Some("r"), Some("i"))
        );
    }

    #[test]
    fn survives_deep_nesting() {
        let deep = "[".repeat(1_000_000);
        assert!(decode(&bytes(&deep)).is_err());
        assert!(decode(&bytes(&format!("{{\"data\":{deep}"))).is_err());
        assert!(decode(&bytes(&format!("{{\"x\":{deep}"))).is_err());
        assert!(decode_topic(&bytes(&deep)).is_err());
    }

    #[test]
    fn takes_bare_bodies_of_topics() {
        for body in [
            r#"{"range":1}"#,
            "3",
            "null",
            r#"{"data":1}"#,
            r#"{"data":1,"meta":2}"#,
            r#"{"data":1,"meta":{},"x":1}"#,
        ] {
            assert_eq!(
                decode_topic(&bytes(body)).unwrap().data.as_ref(),
                body.as_bytes(),
                "{body}"
            );
        }
        assert_eq!(
            decode_topic(&bytes(r#"{"data":1,"meta":{}}"#))
                .unwrap()
                .data
                .as_ref(),
            b"1"
        );
        assert!(decode_topic(&bytes("nope")).is_err());
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{1,8}", any::<String>()]
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(
            id in prop::option::of(text()), correlation_id in prop::option::of(text()),
            reply_to in prop::option::of("[a-z]{1,8}"), timestamp in any::<Option<u64>>(), timeout_ms in any::<Option<u64>>(),
            headers in prop::collection::vec((text(), text()), 0..4),
            error in prop::option::of((text(), text(), any::<bool>())),
        ) {
            let mut message = Envelope { data: Bytes::from_static(b"{\"a\":1}"), meta: Meta {
                id, correlation_id, reply_to, timestamp, timeout_ms, ..Meta::default()
            }};
            for (name, value) in headers {
                message.meta.headers.insert(name, value);
            }
            message.meta.error = error.map(|(code, message, details)| Box::new(WireError {
                code, message,
                details: if details { Bytes::from_static(b"[1]") } else { Bytes::new() },
                execution: details.then_some(Execution::Failed),
            }));
            let wire = Bytes::from(encode(&message, None));
            prop_assert_eq!(decode(&wire).unwrap(), (message.clone(), Dialect::Native));
            prop_assert_eq!(decode_topic(&wire).unwrap(), message);
        }

        #[test]
        fn takes_any_bytes(junk in prop::collection::vec(any::<u8>(), 0..64)) {
            let junk = Bytes::from(junk);
            let _ = (decode(&junk), decode_topic(&junk));
        }
    }
}
