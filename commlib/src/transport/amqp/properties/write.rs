//! Encodes what is sent.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::*;
use crate::envelope::{Dialect, Envelope, JSON, Meta, RESERVED, commlib_py};
use crate::transport::{ReplyRoute, TransportError, TransportErrorKind};

/// Encodes a request, or without a route for its reply a message to a work queue that nobody answers. The address of
/// the reply is added when it is sent.
pub(in super::super) fn request(
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
pub(in super::super) fn kept(
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
pub(in super::super) fn topic(message: &Envelope) -> Result<(BasicProperties, Bytes), TransportError> {
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
pub(in super::super) fn reply(reply: &Envelope, question: &Question) -> (BasicProperties, Bytes) {
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

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
