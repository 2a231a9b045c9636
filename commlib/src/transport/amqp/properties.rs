//! Messages as AMQP carries them: the body is the bare data, the rest rides in the properties and the headers table.
//!
//! Every short string is checked here, because the client library panics over 255 bytes; and the size of the headers,
//! because the broker closes the whole connection when they do not fit one frame.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::codec::Codec;
use crate::compression::is_identity;
use crate::envelope::{Dialect, Envelope, JSON, Malformed, Meta, RESERVED, WireError, commlib_py, native};
use crate::error::{Execution, StatusCode};
use crate::transport::{ReplyRoute, Taken, TransportError, TransportErrorKind};

const TIMEOUT: &str = "commlib-timeout-ms";
const TIMESTAMP: &str = "commlib-timestamp-us";
const ERROR_CODE: &str = "commlib-error-code";
const ERROR_MESSAGE: &str = "commlib-error-message";
const ERROR_EXECUTION: &str = "commlib-error-execution";
const REPLY_EXCHANGE: &str = "commlib-reply-exchange";

/// The direct exchange that reply queues are bound to.
pub(super) const EXCHANGE_OF_REPLIES: &str = "commlib.reply";
/// The pseudo queue of Direct Reply-to.
pub(super) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

const TYPE: &str = "commlib.";
/// Bodies up to this length, in bytes, are checked to be JSON where nothing says it: that costs both sides and the broker
/// less than a word about it.
const CHECKED: usize = 512;
const REQUEST: &str = "commlib.request";
const MESSAGE: &str = "commlib.message";
const REPLY: &str = "commlib.reply";
const ERROR: &str = "commlib.error";

/// Properties have to fit one frame of 128 KiB beside what the broker adds.
const MAX_HEADERS: usize = 96 * 1024;
/// Texts of errors are cut here: they are for people.
const MAX_ERROR_TEXT: usize = 8 * 1024;

/// A short string, or an error in place of the library's panic.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, TransportError> {
    ShortString::try_new(text).map_err(|_| {
        TransportError::did_not_run(
            TransportErrorKind::TooLarge,
            format!("the {what} is {} bytes, AMQP takes 255", text.len()),
        )
    })
}

/// A short string of a text that is known to fit; a longer one is cut, which no caller can tell from not fitting.
pub(super) fn name(text: &str) -> ShortString {
    ShortString::try_new(cut(text, 255)).unwrap_or_default()
}

/// At most this many bytes, ending between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    &text[..end]
}

/// Encodes a request, or without a route for its reply a message to a work queue that nobody answers. The address of
/// the reply is added when it is sent.
pub(super) fn request(
    message: &Envelope,
    time_to_live: Duration,
    reply: Option<ReplyRoute>,
    dialect: Dialect,
) -> Result<(BasicProperties, Bytes), TransportError> {
    let meta = &message.meta;
    let id = short("id", meta.id.as_deref().unwrap_or_default())?;
    let time_to_live = u32::try_from(time_to_live.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    let properties = BasicProperties::default()
        .with_correlation_id(id.clone())
        .with_expiration(name(itoa::Buffer::new().format(time_to_live)));
    if dialect == Dialect::CommlibPy {
        let body = message.data.trim_ascii_start();
        if !body.is_empty() && !body.starts_with(b"{") {
            return Err(TransportError::did_not_run(
                TransportErrorKind::Unsupported,
                "commlib-py takes requests that are objects; a request of another shape would never be answered",
            ));
        }
        // Its server wants an address in the body even though it uses the property where there is one.
        let address = reply.map_or("commlib.none", |_| DIRECT_REPLY_TO);
        let properties = as_commlib_py(properties, meta).with_message_id(id);
        return Ok((properties, commlib_py::encode_request(message, address).into()));
    }
    let mut table = headers(meta)?;
    if let Some(timeout) = meta
        .timeout_ms
        .filter(|timeout| *timeout != u64::from(time_to_live))
    {
        table.insert(name(TIMEOUT), integer(timeout));
    }
    if reply == Some(ReplyRoute::Queue) {
        table.insert(name(REPLY_EXCHANGE), text(EXCHANGE_OF_REPLIES));
    }
    let properties = with_meta(properties, meta, table)?;
    Ok((
        marked(properties, REQUEST, message, names_header),
        message.data.clone(),
    ))
}

/// Encodes a request that is kept for its method until it was handled. The address of the reply is added when it is sent.
pub(super) fn kept(
    message: &Envelope,
    reply: Option<ReplyRoute>,
) -> Result<(BasicProperties, Bytes), TransportError> {
    let (properties, body) = topic(message)?;
    let id = short("id", message.meta.id.as_deref().unwrap_or_default())?;
    let mut headers = properties.headers().clone().unwrap_or_default();
    if reply == Some(ReplyRoute::Queue) {
        headers.insert(name(REPLY_EXCHANGE), text(EXCHANGE_OF_REPLIES));
    }
    let properties = properties
        .with_type(name(REQUEST))
        .with_correlation_id(id)
        .with_delivery_mode(2)
        .with_headers(headers);
    Ok((properties, body))
}

/// Encodes a topic message. The same form serves commlib-py, which reads nothing but the body.
pub(super) fn topic(message: &Envelope) -> Result<(BasicProperties, Bytes), TransportError> {
    let meta = &message.meta;
    // Whoever listens may be no peer of ours, and shall know what it gets.
    let mut properties = BasicProperties::default().with_content_type(name(JSON));
    if let Some(id) = &meta.id {
        properties = properties.with_message_id(short("id", id)?);
    }
    if let Some(id) = &meta.correlation_id {
        properties = properties.with_correlation_id(short("correlation id", id)?);
    }
    let mut table = headers(meta)?;
    if let Some(timeout) = meta.timeout_ms {
        table.insert(name(TIMEOUT), integer(timeout));
    }
    let properties = with_meta(properties, meta, table)?;
    Ok((
        marked(properties, MESSAGE, message, |_| false),
        message.data.clone(),
    ))
}

/// Encodes a reply. It always succeeds: what does not fit is left out, because an answer without its headers is
/// better than none.
pub(super) fn reply(reply: &Envelope, question: &Question) -> (BasicProperties, Bytes) {
    let meta = &reply.meta;
    let mut properties = BasicProperties::default();
    if let Some(id) = &question.correlation_id {
        properties = properties.with_correlation_id(name(id));
    }
    if question.dialect == Dialect::CommlibPy {
        let body = commlib_py::encode_reply(reply, question.body_correlation_id.as_deref());
        return (as_commlib_py(properties, meta), body.into());
    }
    if let Some(content_type) = &meta.content_type {
        properties = properties.with_content_type(name(content_type));
    }
    if let Some(encoding) = &meta.content_encoding {
        properties = properties.with_content_encoding(name(encoding));
    }
    if let Some(id) = &meta.id {
        properties = properties.with_message_id(name(id));
    }
    let mut table = headers(meta).unwrap_or_else(|error| {
        tracing::warn!(%error, "a reply goes without its headers");
        FieldTable::default()
    });
    let Some(error) = &meta.error else {
        if !table.inner().is_empty() {
            properties = properties.with_headers(table);
        }
        let properties = if looks_like_py(&reply.data) {
            properties.with_type(name(REPLY))
        } else {
            properties
        };
        return (properties, reply.data.clone());
    };
    table.insert(name(ERROR_CODE), text(&error.code));
    table.insert(name(ERROR_MESSAGE), text(cut(&error.message, MAX_ERROR_TEXT)));
    if let Some(execution) = error.execution {
        table.insert(name(ERROR_EXECUTION), text(execution.as_str()));
    }
    let details = if error.details.is_empty() {
        Bytes::from_static(b"null")
    } else {
        error.details.clone()
    };
    (properties.with_type(name(ERROR)).with_headers(table), details)
}

/// Says what its messages say.
fn as_commlib_py(properties: BasicProperties, meta: &Meta) -> BasicProperties {
    let properties = properties
        .with_content_type(name(JSON))
        .with_content_encoding(name("utf8"));
    match meta.timestamp {
        Some(timestamp) => properties.with_timestamp(timestamp.saturating_mul(1_000)),
        None => properties,
    }
}

/// Adds what requests and topic messages have in common, where there is something to say.
fn with_meta(
    mut properties: BasicProperties,
    meta: &Meta,
    table: FieldTable,
) -> Result<BasicProperties, TransportError> {
    if let Some(content_type) = &meta.content_type {
        properties = properties.with_content_type(short("content type", content_type)?);
    }
    if let Some(encoding) = &meta.content_encoding {
        properties = properties.with_content_encoding(short("content encoding", encoding)?);
    }
    if let Some(timestamp) = meta.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    if !table.inner().is_empty() {
        properties = properties.with_headers(table);
    }
    Ok(properties)
}

/// Says what the message is where its reader would otherwise look into the body to find out: for long, or in vain.
fn marked(
    properties: BasicProperties,
    kind: &str,
    message: &Envelope,
    misleads: impl FnOnce(&[u8]) -> bool,
) -> BasicProperties {
    let (meta, data) = (&message.meta, &message.data);
    let misleads = if meta.content_type.is_none() && meta.content_encoding.is_none() {
        data.len() > CHECKED || misleads(data)
    } else {
        // What begins as commlib-py's requests do is looked into whatever it says that it is.
        kind == REQUEST && looks_like_py(data)
    };
    if misleads {
        properties.with_type(name(kind))
    } else {
        properties
    }
}

fn headers(meta: &Meta) -> Result<FieldTable, TransportError> {
    let mut table = FieldTable::default();
    let mut size = 0;
    for (key, value) in meta.headers.iter() {
        size += key.len() + value.len() + 6;
        if !key.starts_with(RESERVED) {
            table.insert(short("name of a header", key)?, text(value));
        }
    }
    if size > MAX_HEADERS {
        return Err(TransportError::did_not_run(
            TransportErrorKind::TooLarge,
            format!("the headers are {size} bytes, AMQP takes {MAX_HEADERS}; put large values into the body"),
        ));
    }
    Ok(table)
}

fn integer(value: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// What answering a request needs to know of it.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) dialect: Dialect,
    /// The reply's property: the request's, or its message id.
    pub(super) correlation_id: Option<String>,
    /// What the header in the body of a commlib-py request named.
    body_correlation_id: Option<String>,
    /// Where the reply goes, if it may be written there.
    pub(super) route: Option<Route>,
    /// An address that no requester owns was asked for.
    pub(super) refused: bool,
}

impl Question {
    /// Whether the answer goes through an exchange that somebody may delete, or this user may not write to.
    pub(super) fn goes_to_queue(&self) -> bool {
        self.route
            .as_ref()
            .is_some_and(|route| !route.exchange.is_empty())
    }
}

/// An exchange and a routing key.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) exchange: &'static str,
    pub(super) key: String,
}

/// Reads a message of a work queue and how to answer it. Of a body that is too large only the beginning has to be there.
pub(super) fn read_request(
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
pub(super) fn read_reply(properties: &BasicProperties, body: Bytes) -> Option<(String, Envelope)> {
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
pub(super) fn read_topic(properties: &BasicProperties, body: Bytes) -> Result<Envelope, Malformed> {
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
pub(super) fn sent_at(properties: &BasicProperties) -> Option<u64> {
    number_header(properties, TIMESTAMP).or_else(|| properties.timestamp().map(microseconds))
}

/// Peers count in seconds, milliseconds, microseconds as we do, or nanoseconds as commlib-py does. Which of them is clear
/// for every time between 1973 and 5138.
const fn microseconds(timestamp: u64) -> u64 {
    match timestamp {
        0..100_000_000_000 => timestamp * 1_000_000,
        100_000_000_000..100_000_000_000_000 => timestamp * 1_000,
        100_000_000_000_000..100_000_000_000_000_000 => timestamp,
        100_000_000_000_000_000.. => timestamp / 1_000,
    }
}

/// A header that is a text.
pub(super) fn text_header(properties: &BasicProperties, key: &str) -> Option<String> {
    properties.headers().as_ref()?.inner().get(key).and_then(as_text)
}

/// A header that is a number.
pub(super) fn number_header(properties: &BasicProperties, key: &str) -> Option<u64> {
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

/// Whether a body has the name of what commlib-py's requests have, so that it has to be read to know what it is.
fn names_header(body: &[u8]) -> bool {
    const NAME: &[u8] = b"\"header\"";
    body.windows(NAME.len()).any(|part| part == NAME)
}

/// Whether a body begins as commlib-py begins it; for bodies that are not read to the end.
fn looks_like_py(body: &[u8]) -> bool {
    body.trim_ascii_start()
        .strip_prefix(b"{")
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\"header\""))
}

/// The forms of reply addresses that requesters own; nothing else is ever written to.
fn route(properties: &BasicProperties) -> (Option<Route>, bool) {
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

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
