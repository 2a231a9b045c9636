use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::FieldTable;

use super::read::{microseconds, route};
use super::write::text;
use super::*;
use crate::envelope::{Dialect, Envelope, Headers, Meta, WireError};
use crate::error::Execution;
use crate::transport::{ReplyRoute, Taken};

/// One that came whole.
fn read_request(properties: &BasicProperties, body: Bytes, max_body: usize) -> (Taken, Question) {
    let size = body.len();
    super::read_request(properties, body, size, max_body)
}

fn message() -> Envelope {
    let mut headers = Headers::new();
    headers.insert("tenant", "a b");
    Envelope {
        data: Bytes::from_static(b"{\"a\":1}"),
        meta: Meta {
            id: Some("x".repeat(24)),
            timestamp: Some(1_795_358_732_086_618),
            timeout_ms: Some(1500),
            headers,
            ..Meta::default()
        },
    }
}

fn with_reply_to(address: &str) -> BasicProperties {
    BasicProperties::default().with_reply_to(name(address))
}

#[test]
fn a_request_reads_back() {
    let address = format!("commlib.reply.{}", "r".repeat(24));
    let (properties, body) = request(
        &message(),
        Duration::from_millis(1500),
        Some(ReplyRoute::Queue),
        Dialect::Native,
    )
    .unwrap();
    let properties = properties.with_reply_to(name(&address));
    assert_eq!(
        properties.expiration().as_ref().map(ShortString::as_str),
        Some("1500")
    );
    let (taken, question) = read_request(&properties, body, 100);
    let Taken::Message(read) = taken else {
        panic!("{taken:?}");
    };
    let mut wanted = message();
    wanted.meta.correlation_id.clone_from(&wanted.meta.id);
    wanted.meta.reply_to = Some(address);
    assert_eq!(read, wanted);
    assert_eq!(question.route.unwrap().exchange, "commlib.reply");
}

#[test]
fn a_request_that_begins_as_one_of_commlib_py_reads_back_whatever_it_is() {
    for content_type in [None, Some("application/octet-stream")] {
        let mut message = message();
        message.meta.content_type = content_type.map(str::to_owned);
        message.data = Bytes::from_static(match content_type {
            None => b" {\"header\": 1}",
            Some(_) => b"\n{\"header\"\xd3",
        });
        let (properties, body) = request(&message, Duration::from_secs(1), None, Dialect::Native).unwrap();
        let (taken, question) = read_request(&properties, body, 100);
        assert_eq!(question.dialect, Dialect::Native);
        let Taken::Message(read) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!(read.data, message.data);
    }
}

#[test]
fn a_reply_reads_back_with_its_error() {
    let question = Question {
        dialect: Dialect::Native,
        correlation_id: Some("id".into()),
        body_correlation_id: None,
        route: None,
        refused: false,
    };
    let mut answer = Envelope::default();
    answer.meta.error = Some(Box::new(WireError {
        code: "internal".into(),
        message: "é".repeat(10_000),
        details: Bytes::from_static(b"[1]"),
        execution: Some(Execution::Failed),
    }));
    let (properties, body) = reply(&answer, &question);
    let (id, read) = read_reply(&properties, body).unwrap();
    let error = read.meta.error.unwrap();
    assert_eq!((id.as_str(), error.details.as_ref()), ("id", &b"[1]"[..]));
    assert_eq!(
        (error.code.as_str(), error.execution),
        ("internal", Some(Execution::Failed))
    );
    assert!(error.message.len() <= MAX_ERROR_TEXT && error.message.starts_with('é'));
    answer.meta.error.as_mut().unwrap().details = Bytes::new();
    let (properties, body) = reply(&answer, &question);
    assert_eq!(body.as_ref(), b"null");
    let (_, read) = read_reply(&properties, body).unwrap();
    assert!(read.meta.error.unwrap().details.is_empty());
}

#[test]
fn answers_commlib_py_in_its_form() {
    let body = Bytes::from_static(
        br#"{"header":{"reply_to":"amq.rabbitmq.reply-to","correlation_id":"c","timestamp":1795358732086618916},"data":{"a":1}}"#,
    );
    let properties =
        with_reply_to("amq.rabbitmq.reply-to.g1hB+/=.x==").with_timestamp(1_795_358_732_086_618_916);
    let (taken, question) = read_request(&properties, body.clone(), 1000);
    let Taken::Message(read) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(read.data.as_ref(), br#"{"a":1}"#);
    assert_eq!(read.meta.timestamp, Some(1_795_358_732_086_618));
    assert_eq!(question.dialect, Dialect::CommlibPy);
    let (properties, answer) = reply(&Envelope::default(), &question);
    assert!(properties.kind().is_none());
    let value: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        (&value["data"], &value["header"]["correlation_id"]),
        (&serde_json::json!({}), &"c".into())
    );
    let (taken, question) = read_request(&properties, body, 10);
    assert!(matches!(taken, Taken::TooLarge { .. }));
    assert_eq!(question.dialect, Dialect::CommlibPy);
}

#[test]
fn writes_requests_for_commlib_py_only_as_objects() {
    let direct = Some(ReplyRoute::Direct);
    let mut number = message();
    number.data = Bytes::from_static(b"7");
    assert!(request(&number, Duration::ZERO, direct, Dialect::CommlibPy).is_err());
    let (properties, body) = request(&message(), Duration::ZERO, direct, Dialect::CommlibPy).unwrap();
    assert!(properties.kind().is_none() && properties.correlation_id().is_some());
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(value["header"]["reply_to"], DIRECT_REPLY_TO);
}

#[test]
fn replies_only_to_addresses_that_requesters_own() {
    let random = "r".repeat(24);
    for address in [
        "amq.rabbitmq.reply-to.g1hB+/=.x==".to_owned(),
        format!("commlib.reply.{random}"),
    ] {
        let (route, refused) = route(&with_reply_to(&address));
        assert_eq!((route.unwrap().key, refused), (address, false));
    }
    for address in [
        "amq.rabbitmq.reply-to",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.a\nb",
        "other.service",
        "commlib.reply.short",
        "commlib.reply.rrrrrrrrrrrrrrrrrrrrrrr.",
        "amq.topic",
        "..",
    ] {
        let (route, refused) = route(&with_reply_to(address));
        assert!(route.is_none() && refused, "{address}");
    }
    assert!(route(&with_reply_to("")).1);
    assert!(!route(&BasicProperties::default()).1);
    let mut headers = FieldTable::default();
    headers.insert(name(REPLY_EXCHANGE), text("amq.topic"));
    let forged = with_reply_to(&format!("commlib.reply.{random}")).with_headers(headers);
    assert!(route(&forged).0.is_none());
}

#[test]
fn reads_what_no_peer_should_send() {
    for (body, malformed) in [
        (&b""[..], true),
        (b"nope", true),
        (b"\xff\xfe", true),
        (b"[1]", false),
        (b"{\"header\":1}", true),
        (b"{\"data\":1,\"meta\":{}}", false),
    ] {
        let (taken, question) = read_request(
            &with_reply_to("").with_message_id(name("m")),
            Bytes::from_static(body),
            1000,
        );
        assert_eq!(matches!(taken, Taken::Malformed(_)), malformed, "{body:?}");
        assert_eq!(question.correlation_id.as_deref(), Some("m"));
    }
    let deep = Bytes::from("[".repeat(1_000_000));
    assert!(matches!(
        read_request(&BasicProperties::default(), deep, usize::MAX).0,
        Taken::Malformed(_)
    ));
}

#[test]
fn refuses_what_amqp_cannot_carry() {
    let mut long = message();
    long.meta.id = Some("x".repeat(256));
    assert!(topic(&long).is_err());
    let mut long = message();
    long.meta.headers.insert("k", "v".repeat(MAX_HEADERS));
    assert_eq!(topic(&long).unwrap_err().kind, TransportErrorKind::TooLarge);
    let mut long = message();
    long.meta.headers.insert("k".repeat(256), "v");
    assert_eq!(topic(&long).unwrap_err().kind, TransportErrorKind::TooLarge);
}

#[test]
fn reserved_headers_stay_ours() {
    let mut forged = message();
    forged.meta.headers.insert("commlib-timeout-ms", "1");
    let (properties, body) = topic(&forged).unwrap();
    let read = read_topic(&properties, body).unwrap();
    assert_eq!((read.meta.timeout_ms, read.meta.headers.len()), (Some(1500), 1));
}

#[test]
fn takes_any_timestamp() {
    for (property, wanted) in [
        (1_795_358_732, 1_795_358_732_000_000),
        (1_795_358_732_086, 1_795_358_732_086_000),
        (1_795_358_732_086_618, 1_795_358_732_086_618),
        (1_795_358_732_086_618_916, 1_795_358_732_086_618),
        (u64::MAX, u64::MAX / 1000),
    ] {
        assert_eq!(microseconds(property), wanted, "{property}");
    }
}

fn plain() -> Envelope {
    let mut message = message();
    message.meta.headers = Headers::new();
    message
}

#[test]
fn an_ordinary_call_carries_what_it_needs_and_nothing_twice() {
    let sent = plain();
    let time_to_live = Duration::from_micros(1_499_001);
    let (properties, body) = request(&sent, time_to_live, Some(ReplyRoute::Direct), Dialect::Native).unwrap();
    let wanted = BasicProperties::default()
        .with_correlation_id(name(&"x".repeat(24)))
        .with_expiration(name("1500"))
        .with_timestamp(1_795_358_732_086_618);
    assert_eq!(properties, wanted);
    let (taken, question) = read_request(&properties, body, 100);
    let Taken::Message(read) = taken else {
        panic!("{taken:?}");
    };
    let Meta {
        id,
        timestamp,
        timeout_ms,
        ..
    } = read.meta;
    assert_eq!(
        (id, timestamp, timeout_ms),
        (sent.meta.id, sent.meta.timestamp, Some(1500))
    );
    let (properties, _) = reply(&plain(), &question);
    let wanted = BasicProperties::default()
        .with_correlation_id(name(&"x".repeat(24)))
        .with_message_id(name(&"x".repeat(24)));
    assert_eq!(properties, wanted);
}

#[test]
fn a_time_that_is_not_the_time_to_live_is_said() {
    let direct = Some(ReplyRoute::Direct);
    let (properties, body) = request(&plain(), Duration::from_millis(900), direct, Dialect::Native).unwrap();
    assert_eq!(
        properties.expiration().as_ref().map(ShortString::as_str),
        Some("900")
    );
    let Taken::Message(read) = read_request(&properties, body, 100).0 else {
        panic!("{properties:?}");
    };
    assert_eq!(read.meta.timeout_ms, Some(1500));
}

#[test]
fn says_what_a_body_does_not() {
    let direct = Some(ReplyRoute::Direct);
    let kind = |properties: &BasicProperties| properties.kind().as_ref().map(ToString::to_string);
    let written = |body: &str, content_type: Option<&str>| {
        let mut message = plain();
        message.data = Bytes::copy_from_slice(body.as_bytes());
        message.meta.content_type = content_type.map(str::to_owned);
        let (properties, body) = request(&message, Duration::ZERO, direct, Dialect::Native).unwrap();
        let (taken, question) = read_request(&properties, body, 10_000);
        let Taken::Message(read) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!(
            (read.data, question.dialect),
            (message.data.clone(), Dialect::Native)
        );
        let (topic, body) = topic(&message).unwrap();
        assert_eq!(read_topic(&topic, body).unwrap().data, message.data);
        let (reply, body) = reply(&message, &question);
        assert_eq!(read_reply(&reply, body).unwrap().1.data, message.data);
        (kind(&properties), kind(&topic), kind(&reply))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(written("{\"a\":1}", None), (None, None, None));
    let misleading = "{\"header\":{\"reply_to\":\"\"},\"data\":{}}";
    assert_eq!(written(misleading, None), (some(REQUEST), None, some(REPLY)));
    let hidden = "{\"data\":{},\"header\":{}}";
    assert_eq!(written(hidden, None), (some(REQUEST), None, None));
    let long = format!("\"{}\"", "x".repeat(CHECKED));
    assert_eq!(written(&long, None), (some(REQUEST), some(MESSAGE), None));
    assert_eq!(written(&long, Some("application/msgpack")), (None, None, None));
}
