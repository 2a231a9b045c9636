//! AMQP properties and header tables of any make, and made-up messages as AMQP carries them.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use commlib::__fuzz::amqp::{self, Asked};
use commlib::envelope::Envelope;
use commlib::transport::Taken;
use commlib::{Dialect, ReplyRoute};
use commlib_fuzz::messages::Message;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Properties<'a> {
    content_type: Option<&'a str>,
    content_encoding: Option<&'a str>,
    headers: Option<Vec<(Name<'a>, Field<'a>)>>,
    correlation_id: Option<&'a str>,
    reply_to: Option<&'a str>,
    expiration: Option<&'a str>,
    message_id: Option<&'a str>,
    timestamp: Option<u64>,
    kind: Option<Kind<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Any(&'a str),
    Timeout,
    Timestamp,
    Code,
    Message,
    Execution,
    Exchange,
}

#[derive(Debug, Arbitrary)]
enum Kind<'a> {
    Any(&'a str),
    Request,
    Message,
    Reply,
    Error,
}

#[derive(Debug, Arbitrary)]
enum Field<'a> {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F64(f64),
    Short(&'a str),
    Long(&'a [u8]),
    Array(Vec<Field<'a>>),
    Timestamp(u64),
    Table(Vec<(Name<'a>, Field<'a>)>),
    Bytes(&'a [u8]),
    Void,
}

fuzz_target!(|input: (Properties<'_>, Message, &[u8])| {
    let (made, Message(message), body) = input;
    let (properties, body) = (properties(made), Bytes::copy_from_slice(body));
    let asked = amqp::read_request(&properties, body.clone(), 512);
    assert_eq!(matches!(asked.taken, Taken::TooLarge { .. }), body.len() > 512);
    if let Taken::Message(taken) = &asked.taken {
        derived(taken, &properties);
    }
    // A message that asks for an answer is either answered where it may be, or refused.
    assert_eq!(
        properties.reply_to().is_some(),
        asked.refused || asked.route.is_some()
    );
    if let Some((id, reply)) = amqp::read_reply(&properties, body.clone()) {
        assert_eq!(
            Some(id.as_str()),
            properties.correlation_id().as_ref().map(ShortString::as_str)
        );
        derived(&reply, &properties);
    }
    if let Ok(message) = amqp::read_topic(&properties, body) {
        derived(&message, &properties);
    }
    writes(&message, &asked);
});

/// A peer's headers are headers, and never what this side derives from its own.
fn derived(message: &Envelope, properties: &BasicProperties) {
    assert!(
        message
            .meta
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("commlib-"))
    );
    let given = properties
        .headers()
        .as_ref()
        .map_or(0, |headers| headers.inner().len());
    assert!(message.meta.headers.len() <= given);
}

/// What is written reads back.
fn writes(message: &Envelope, asked: &Asked) {
    // Only replies may have no body.
    let has_body = !message.data.is_empty();
    let ttl = Duration::from_micros(message.meta.timestamp.unwrap_or_default());
    for (reply, dialect) in [
        (Some(ReplyRoute::Direct), Dialect::Native),
        (Some(ReplyRoute::Queue), Dialect::Native),
        (None, Dialect::Native),
        (Some(ReplyRoute::Direct), Dialect::CommlibPy),
    ] {
        let Ok((properties, body)) = amqp::request(message, ttl, reply, dialect) else {
            continue;
        };
        let read = amqp::read_request(&properties, body, usize::MAX);
        let Taken::Message(read) = read.taken else {
            // Bodies that are no JSON are not for commlib-py.
            assert!(dialect == Dialect::CommlibPy || !has_body);
            continue;
        };
        if dialect == Dialect::Native {
            // A request that says nothing else may run for as long as it may be delivered.
            let deliverable = ttl.as_micros().div_ceil(1000).min(u32::MAX.into());
            let deliverable = u64::try_from(deliverable).ok();
            same(&read, message, message.meta.timeout_ms.or(deliverable));
        }
    }
    if has_body && let Ok((properties, body)) = amqp::topic(message) {
        let read = amqp::read_topic(&properties, body).expect("what we write can be read");
        same(&read, message, message.meta.timeout_ms);
    }
    let (properties, body) = amqp::reply(message, asked);
    let id = asked.correlation_id.clone().filter(|id| !id.is_empty());
    let read = amqp::read_reply(&properties, body);
    assert_eq!(read.as_ref().map(|(id, _)| id.as_str()), id.as_deref());
    if let Some((_, read)) = read
        && asked.dialect == Dialect::Native
    {
        assert_eq!(read.meta.error.is_some(), message.meta.error.is_some());
    }
}

fn same(read: &Envelope, message: &Envelope, timeout: Option<u64>) {
    assert_eq!(read.data, message.data);
    assert_eq!(
        read.meta.id.as_deref().unwrap_or_default(),
        message.meta.id.as_deref().unwrap_or_default()
    );
    let in_range = |number: Option<u64>| number.map(|number| number.min(i64::MAX as u64));
    // Of times before 1973 and after 5138 there is no telling what they count.
    if (10_u64.pow(14)..10_u64.pow(17)).contains(&message.meta.timestamp.unwrap_or_default()) {
        assert_eq!(read.meta.timestamp, message.meta.timestamp);
    }
    assert_eq!(read.meta.timeout_ms, in_range(timeout));
    let content_type = message
        .meta
        .content_type
        .as_deref()
        .filter(|name| !name.is_empty());
    assert_eq!(read.meta.content_type.as_deref(), content_type);
    for (name, value) in message.meta.headers.iter() {
        let kept = !name.starts_with("commlib-");
        assert_eq!(read.meta.headers.get(name), kept.then_some(value));
    }
}

fn properties(made: Properties<'_>) -> BasicProperties {
    let mut properties = BasicProperties::default();
    macro_rules! texts {
        ($($field:ident $with:ident)*) => {
            $(if let Some(text) = made.$field.and_then(|text| ShortString::try_new(text).ok()) {
                properties = properties.$with(text);
            })*
        };
    }
    texts! {
        content_type with_content_type
        content_encoding with_content_encoding
        correlation_id with_correlation_id
        reply_to with_reply_to
        expiration with_expiration
        message_id with_message_id
    }
    if let Some(timestamp) = made.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    if let Some(headers) = made.headers {
        properties = properties.with_headers(table(headers));
    }
    let kind = match made.kind {
        None => return properties,
        Some(Kind::Any(text)) => text,
        Some(Kind::Request) => "commlib.request",
        Some(Kind::Message) => "commlib.message",
        Some(Kind::Reply) => "commlib.reply",
        Some(Kind::Error) => "commlib.error",
    };
    match ShortString::try_new(kind) {
        Ok(kind) => properties.with_type(kind),
        Err(_) => properties,
    }
}

fn table(fields: Vec<(Name<'_>, Field<'_>)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, field) in fields {
        let name = match name {
            Name::Any(text) => text,
            Name::Timeout => "commlib-timeout-ms",
            Name::Timestamp => "commlib-timestamp-us",
            Name::Code => "commlib-error-code",
            Name::Message => "commlib-error-message",
            Name::Execution => "commlib-error-execution",
            Name::Exchange => "commlib-reply-exchange",
        };
        if let Ok(name) = ShortString::try_new(name) {
            table.insert(name, value(field));
        }
    }
    table
}

fn value(field: Field<'_>) -> AMQPValue {
    match field {
        Field::Bool(value) => AMQPValue::Boolean(value),
        Field::I8(value) => AMQPValue::ShortShortInt(value),
        Field::U8(value) => AMQPValue::ShortShortUInt(value),
        Field::I16(value) => AMQPValue::ShortInt(value),
        Field::U16(value) => AMQPValue::ShortUInt(value),
        Field::I32(value) => AMQPValue::LongInt(value),
        Field::U32(value) => AMQPValue::LongUInt(value),
        Field::I64(value) => AMQPValue::LongLongInt(value),
        Field::F64(value) => AMQPValue::Double(value),
        Field::Short(text) => ShortString::try_new(text).map_or(AMQPValue::Void, AMQPValue::ShortString),
        Field::Long(bytes) => AMQPValue::LongString(LongString::from(bytes)),
        Field::Array(fields) => AMQPValue::FieldArray(FieldArray::from(
            fields.into_iter().map(value).collect::<Vec<_>>(),
        )),
        Field::Timestamp(value) => AMQPValue::Timestamp(value),
        Field::Table(fields) => AMQPValue::FieldTable(table(fields)),
        Field::Bytes(bytes) => AMQPValue::ByteArray(bytes.into()),
        Field::Void => AMQPValue::Void,
    }
}
