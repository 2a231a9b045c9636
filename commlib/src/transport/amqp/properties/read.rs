//! Reads what comes.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

use super::*;
use crate::codec::Codec;
use crate::compression::is_identity;
use crate::envelope::{Dialect, Envelope, JSON, Malformed, Meta, RESERVED, WireError, native};
use crate::error::{Execution, StatusCode};
use crate::transport::Taken;

/// What answering a request needs to know of it.
#[derive(Debug, Clone)]
pub(in super::super) struct Question {
    pub(in super::super) dialect: Dialect,
    /// The reply's property: the request's, or its message id.
    pub(in super::super) correlation_id: Option<String>,
    /// What the header in the body of a commlib-py request named.
    pub(super) body_correlation_id: Option<String>,
    /// Where the reply goes, if it may be written there.
    pub(in super::super) route: Option<Route>,
    /// An address that no requester owns was asked for.
    pub(in super::super) refused: bool,
}

impl Question {
    /// Whether the answer goes through an exchange that somebody may delete, or this user may not write to.
    pub(in super::super) fn goes_to_queue(&self) -> bool {
        self.route
            .as_ref()
            .is_some_and(|route| !route.exchange.is_empty())
    }
}

/// An exchange and a routing key.
#[derive(Debug, Clone)]
pub(in super::super) struct Route {
    pub(in super::super) exchange: &'static str,
    pub(in super::super) key: String,
}

/// Reads a message of a work queue and how to answer it. Of a body that is too large only the beginning has to be there.
pub(in super::super) fn read_request(
    properties: &BasicProperties,
    body: Bytes,
    size: usize,
    max_body: usize,
) -> (Taken, Question) {
    let correlation_id = owned(properties.correlation_id()).or_else(|| owned(properties.message_id()));
    let (route, refused) = route(properties);
    let mut question = Question {
        dialect: Dialect::Native,
        correlation_id,
        body_correlation_id: None,
        route,
        refused,
    };
    let ours = is_ours(properties);
    if !ours && looks_like_py(&body) {
        question.dialect = Dialect::CommlibPy;
    }
    if size > max_body {
        return (Taken::TooLarge { size }, question);
    }
    let native = question.dialect == Dialect::Native;
    if ours || (native && (says_not_json(properties) || (!names_header(&body) && is_json(&body)))) {
        return (Taken::Message(bare_request(properties, body)), question);
    }
    let taken = match native::in_any_form(&body) {
        Ok((mut message, Dialect::CommlibPy)) => {
            question.dialect = Dialect::CommlibPy;
            question.body_correlation_id = message.meta.correlation_id.take();
            message.meta.id = owned(properties.message_id());
            message.meta.correlation_id.clone_from(&question.correlation_id);
            message.meta.reply_to = owned(properties.reply_to());
            message.meta.headers = read_headers(properties);
            Taken::Message(message)
        }
        // An object with `meta` is no envelope here: AMQP carries that in its properties.
        Ok(_) => Taken::Message(bare_request(properties, body)),
        Err(mut malformed) => {
            malformed.reply_to = owned(properties.reply_to());
            malformed.correlation_id.clone_from(&question.correlation_id);
            Taken::Malformed(malformed)
        }
    };
    (taken, question)
}

/// Reads a reply and the id of the request that it answers; `None` without one.
pub(in super::super) fn read_reply(properties: &BasicProperties, body: Bytes) -> Option<(String, Envelope)> {
    let id = owned(properties.correlation_id())?;
    if !is_ours(properties)
        && looks_like_py(&body)
        && let Ok((mut message, Dialect::CommlibPy)) = native::in_any_form(&body)
    {
        message.meta.correlation_id = Some(id.clone());
        message.meta.headers = read_headers(properties);
        return Some((id, message));
    }
    Some((id, bare(properties, body)))
}

/// Reads a topic message.
pub(in super::super) fn read_topic(properties: &BasicProperties, body: Bytes) -> Result<Envelope, Malformed> {
    if !is_ours(properties) && !says_not_json(properties) && !is_json(&body) {
        return Err(Malformed::new("the body is not JSON"));
    }
    Ok(bare(properties, body))
}

/// How the body is compressed, if it is.
fn encoding(properties: &BasicProperties) -> Option<String> {
    owned(properties.content_encoding()).filter(|encoding| !is_identity(encoding))
}

/// Whether the body is compressed or of a content type that is not JSON, so that there is nothing to look for in it.
fn says_not_json(properties: &BasicProperties) -> bool {
    encoding(properties).is_some()
        || properties
            .content_type()
            .as_ref()
            .is_some_and(|name| Codec::from_content_type(name.as_str()) != Some(Codec::Json))
}

/// A request needs one id only, and says once how long it is worth an answer.
fn bare_request(properties: &BasicProperties, body: Bytes) -> Envelope {
    let mut message = bare(properties, body);
    let meta = &mut message.meta;
    if meta.id.is_none() {
        meta.id.clone_from(&meta.correlation_id);
    }
    if meta.timeout_ms.is_none() {
        let expiration = properties.expiration().as_ref();
        meta.timeout_ms = expiration.and_then(|text| text.as_str().parse().ok());
    }
    message
}

fn bare(properties: &BasicProperties, body: Bytes) -> Envelope {
    let headers = properties.headers().as_ref();
    let number = |key: &str| {
        headers
            .and_then(|headers| headers.inner().get(key))
            .and_then(as_u64)
    };
    let string = |key: &str| {
        headers
            .and_then(|headers| headers.inner().get(key))
            .and_then(as_text)
    };
    let mut message = Envelope {
        data: body,
        meta: Meta {
            id: owned(properties.message_id()),
            correlation_id: owned(properties.correlation_id()),
            reply_to: owned(properties.reply_to()),
            timestamp: sent_at(properties),
            timeout_ms: number(TIMEOUT),
            content_type: owned(properties.content_type()).filter(|content_type| content_type != JSON),
            content_encoding: encoding(properties),
            headers: read_headers(properties),
            error: None,
        },
    };
    if properties
        .kind()
        .as_ref()
        .is_some_and(|kind| kind.as_str() == ERROR)
    {
        let details = std::mem::take(&mut message.data);
        message.meta.error = Some(Box::new(WireError {
            code: string(ERROR_CODE).unwrap_or_else(|| StatusCode::Internal.as_str().to_owned()),
            message: string(ERROR_MESSAGE).unwrap_or_default(),
            details: if details.as_ref() == b"null" {
                Bytes::new()
            } else {
                details
            },
            execution: string(ERROR_EXECUTION).map(|word| Execution::from_wire(&word)),
        }));
    }
    message
}

/// When it was sent, in microseconds since 1970.
pub(in super::super) fn sent_at(properties: &BasicProperties) -> Option<u64> {
    number_header(properties, TIMESTAMP).or_else(|| properties.timestamp().map(microseconds))
}

/// Peers count in seconds, milliseconds, microseconds as we do, or nanoseconds as commlib-py does. Which of them is clear
/// for every time between 1973 and 5138.
pub(super) const fn microseconds(timestamp: u64) -> u64 {
    match timestamp {
        0..100_000_000_000 => timestamp * 1_000_000,
        100_000_000_000..100_000_000_000_000 => timestamp * 1_000,
        100_000_000_000_000..100_000_000_000_000_000 => timestamp,
        100_000_000_000_000_000.. => timestamp / 1_000,
    }
}

/// A header that is a text.
pub(in super::super) fn text_header(properties: &BasicProperties, key: &str) -> Option<String> {
    properties.headers().as_ref()?.inner().get(key).and_then(as_text)
}

/// A header that is a number.
pub(in super::super) fn number_header(properties: &BasicProperties, key: &str) -> Option<u64> {
    properties.headers().as_ref()?.inner().get(key).and_then(as_u64)
}

fn read_headers(properties: &BasicProperties) -> crate::envelope::Headers {
    let mut read = crate::envelope::Headers::new();
    for (key, value) in properties.headers().iter().flatten() {
        if !key.as_str().starts_with(RESERVED)
            && let Some(value) = as_text(value)
        {
            read.receive(key.as_str(), value);
        }
    }
    read
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn as_u64(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::ShortShortInt(value) => u64::try_from(*value).ok(),
        AMQPValue::ShortShortUInt(value) => Some((*value).into()),
        AMQPValue::ShortInt(value) => u64::try_from(*value).ok(),
        AMQPValue::ShortUInt(value) => Some((*value).into()),
        AMQPValue::LongInt(value) => u64::try_from(*value).ok(),
        AMQPValue::LongUInt(value) => Some((*value).into()),
        AMQPValue::LongLongInt(value) => u64::try_from(*value).ok(),
        AMQPValue::Timestamp(value) => Some(*value),
        _ => None,
    }
}

fn owned(text: &Option<ShortString>) -> Option<String> {
    text.as_ref()
        .map(ShortString::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn is_ours(properties: &BasicProperties) -> bool {
    properties
        .kind()
        .as_ref()
        .is_some_and(|kind| kind.as_str().starts_with(TYPE))
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// The forms of reply addresses that requesters own; nothing else is ever written to.
pub(super) fn route(properties: &BasicProperties) -> (Option<Route>, bool) {
    let Some(address) = owned(properties.reply_to()) else {
        // An empty one is none that may be answered.
        return (None, properties.reply_to().is_some());
    };
    let plain = |text: &str, others: &[u8]| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
    };
    let exchange = match properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(REPLY_EXCHANGE))
    {
        None => "",
        Some(value) if as_text(value).as_deref() == Some(EXCHANGE_OF_REPLIES) => EXCHANGE_OF_REPLIES,
        Some(_) => return (None, true),
    };
    let direct = address
        .strip_prefix(DIRECT_REPLY_TO)
        .and_then(|rest| rest.strip_prefix('.'));
    let queue = address
        .strip_prefix(EXCHANGE_OF_REPLIES)
        .and_then(|rest| rest.strip_prefix('.'));
    let fine = match (direct, queue) {
        (Some(token), _) => !token.is_empty() && plain(token, b"+/=._-") && exchange.is_empty(),
        (_, Some(random)) => random.len() == 24 && plain(random, b"_-"),
        _ => false,
    };
    if fine {
        let key = address;
        (Some(Route { exchange, key }), false)
    } else {
        (None, true)
    }
}
