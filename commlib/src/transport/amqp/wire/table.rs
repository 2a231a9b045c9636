//! The properties of messages and their tables of headers, as bytes.
//!
//! Whoever may publish to a queue chooses them, and brokers pass on what is no text and what is nested without an end. So
//! they are read here, within bounds, and not by the client library: it ends the connection over the first, and the
//! process over the second. The names of types are those that RabbitMQ uses
//! (<https://www.rabbitmq.com/docs/amqp-0-9-1-errata>, section 3).

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString};

use super::frames::{Broken, Bytes, short};

/// Tables in tables. Brokers themselves use two.
const MAX_DEPTH: usize = 32;

// The flags of the properties, in the order in which they come.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;

pub(super) fn write_properties(out: &mut Vec<u8>, properties: &BasicProperties) {
    out.extend_from_slice(&properties.bitmask().to_be_bytes());
    let text = |out: &mut Vec<u8>, text: &Option<ShortString>| {
        if let Some(text) = text {
            short(out, text.as_str());
        }
    };
    text(out, properties.content_type());
    text(out, properties.content_encoding());
    if let Some(headers) = properties.headers() {
        write_table(out, headers);
    }
    out.extend(properties.delivery_mode());
    out.extend(properties.priority());
    text(out, properties.correlation_id());
    text(out, properties.reply_to());
    text(out, properties.expiration());
    text(out, properties.message_id());
    if let Some(timestamp) = properties.timestamp() {
        out.extend_from_slice(&timestamp.to_be_bytes());
    }
    text(out, properties.kind());
    text(out, properties.user_id());
    text(out, properties.app_id());
    text(out, properties.cluster_id());
}

/// Writes a length and what `content` writes.
fn counted(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_table(out: &mut Vec<u8>, table: &FieldTable) {
    counted(out, |out| {
        for (key, value) in table.inner() {
            short(out, key.as_str());
            write_value(out, value);
        }
    });
}

fn write_value(out: &mut Vec<u8>, value: &AMQPValue) {
    let mut tagged = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(bytes);
    };
    match value {
        AMQPValue::Boolean(value) => tagged(b't', &[u8::from(*value)]),
        AMQPValue::ShortShortInt(value) => tagged(b'b', &value.to_be_bytes()),
        AMQPValue::ShortShortUInt(value) => tagged(b'B', &[*value]),
        AMQPValue::ShortInt(value) => tagged(b's', &value.to_be_bytes()),
        AMQPValue::ShortUInt(value) => tagged(b'u', &value.to_be_bytes()),
        AMQPValue::LongInt(value) => tagged(b'I', &value.to_be_bytes()),
        AMQPValue::LongUInt(value) => tagged(b'i', &value.to_be_bytes()),
        AMQPValue::LongLongInt(value) => tagged(b'l', &value.to_be_bytes()),
        AMQPValue::Float(value) => tagged(b'f', &value.to_be_bytes()),
        AMQPValue::Double(value) => tagged(b'd', &value.to_be_bytes()),
        AMQPValue::DecimalValue(DecimalValue { scale, value }) => {
            tagged(b'D', &[*scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        // There are no short strings in tables.
        AMQPValue::ShortString(text) => {
            out.push(b'S');
            counted(out, |out| out.extend_from_slice(text.as_str().as_bytes()));
        }
        AMQPValue::LongString(text) => {
            out.push(b'S');
            counted(out, |out| out.extend_from_slice(text.as_bytes()));
        }
        AMQPValue::FieldArray(array) => {
            out.push(b'A');
            counted(out, |out| {
                for value in array.as_slice() {
                    write_value(out, value);
                }
            });
        }
        AMQPValue::Timestamp(value) => tagged(b'T', &value.to_be_bytes()),
        AMQPValue::FieldTable(table) => {
            out.push(b'F');
            write_table(out, table);
        }
        AMQPValue::ByteArray(bytes) => {
            out.push(b'x');
            counted(out, |out| out.extend_from_slice(bytes.as_slice()));
        }
        AMQPValue::Void => out.push(b'V'),
    }
}

/// Reads properties. What is wrong with them comes beside those that could be read before it, so that the message can
/// be answered where there is an address for that.
pub(super) fn read_properties(bytes: &mut Bytes<'_>) -> (BasicProperties, Option<Broken>) {
    let mut properties = BasicProperties::default();
    let broken = read_into(&mut properties, bytes).err();
    (properties, broken)
}

fn read_into(properties: &mut BasicProperties, bytes: &mut Bytes<'_>) -> Result<(), Broken> {
    const NO_TEXT: Broken = Broken("a property is no text");
    let flags = bytes.u16()?;
    let mut no_text = false;
    // One that is no text is left out, and the rest is read.
    let mut text = |flag: u16, bytes: &mut Bytes<'_>| -> Result<Option<ShortString>, Broken> {
        if flags & flag == 0 {
            return Ok(None);
        }
        let text = utf8(bytes.short()?);
        no_text |= text.is_none();
        Ok(text)
    };
    if let Some(text) = text(CONTENT_TYPE, bytes)? {
        change(properties, |properties| properties.with_content_type(text));
    }
    if let Some(text) = text(CONTENT_ENCODING, bytes)? {
        change(properties, |properties| properties.with_content_encoding(text));
    }
    let mut headers = Ok(());
    if flags & HEADERS != 0 {
        headers = read_table(&mut Bytes(bytes.long()?), MAX_DEPTH)
            .map(|table| change(properties, |properties| properties.with_headers(table)));
    }
    if flags & DELIVERY_MODE != 0 {
        let mode = bytes.u8()?;
        change(properties, |properties| properties.with_delivery_mode(mode));
    }
    if flags & PRIORITY != 0 {
        let priority = bytes.u8()?;
        change(properties, |properties| properties.with_priority(priority));
    }
    if let Some(text) = text(CORRELATION_ID, bytes)? {
        change(properties, |properties| properties.with_correlation_id(text));
    }
    if let Some(text) = text(REPLY_TO, bytes)? {
        change(properties, |properties| properties.with_reply_to(text));
    }
    if let Some(text) = text(EXPIRATION, bytes)? {
        change(properties, |properties| properties.with_expiration(text));
    }
    if let Some(text) = text(MESSAGE_ID, bytes)? {
        change(properties, |properties| properties.with_message_id(text));
    }
    if flags & TIMESTAMP != 0 {
        let timestamp = bytes.u64()?;
        change(properties, |properties| properties.with_timestamp(timestamp));
    }
    if let Some(text) = text(TYPE, bytes)? {
        change(properties, |properties| properties.with_type(text));
    }
    if let Some(text) = text(USER_ID, bytes)? {
        change(properties, |properties| properties.with_user_id(text));
    }
    if let Some(text) = text(APP_ID, bytes)? {
        change(properties, |properties| properties.with_app_id(text));
    }
    if let Some(text) = text(CLUSTER_ID, bytes)? {
        change(properties, |properties| properties.with_cluster_id(text));
    }
    headers?;
    if no_text { Err(NO_TEXT) } else { Ok(()) }
}

fn change(properties: &mut BasicProperties, with: impl FnOnce(BasicProperties) -> BasicProperties) {
    *properties = with(std::mem::take(properties));
}

fn utf8(bytes: &[u8]) -> Option<ShortString> {
    let text = std::str::from_utf8(bytes).ok()?;
    ShortString::try_new(text).ok()
}

fn read_table(bytes: &mut Bytes<'_>, depth: usize) -> Result<FieldTable, Broken> {
    let mut table = BTreeMap::new();
    while !bytes.0.is_empty() {
        let key = utf8(bytes.short()?).ok_or(Broken("the name of a header is no text"))?;
        table.insert(key, read_value(bytes, depth)?);
    }
    Ok(table.into())
}

fn read_value(bytes: &mut Bytes<'_>, depth: usize) -> Result<AMQPValue, Broken> {
    let inner = || {
        depth
            .checked_sub(1)
            .ok_or(Broken("its headers are nested too deeply"))
    };
    Ok(match bytes.u8()? {
        b't' => AMQPValue::Boolean(bytes.u8()? != 0),
        b'b' => AMQPValue::ShortShortInt(bytes.u8()?.cast_signed()),
        b'B' => AMQPValue::ShortShortUInt(bytes.u8()?),
        b's' | b'U' => AMQPValue::ShortInt(bytes.u16()?.cast_signed()),
        b'u' => AMQPValue::ShortUInt(bytes.u16()?),
        b'I' => AMQPValue::LongInt(bytes.u32()?.cast_signed()),
        b'i' => AMQPValue::LongUInt(bytes.u32()?),
        b'l' | b'L' => AMQPValue::LongLongInt(bytes.u64()?.cast_signed()),
        b'f' => AMQPValue::Float(f32::from_bits(bytes.u32()?)),
        b'd' => AMQPValue::Double(f64::from_bits(bytes.u64()?)),
        b'D' => AMQPValue::DecimalValue(DecimalValue {
            scale: bytes.u8()?,
            value: bytes.u32()?,
        }),
        b'S' => AMQPValue::LongString(LongString::from(bytes.long()?)),
        b'A' => {
            let (mut values, depth) = (Bytes(bytes.long()?), inner()?);
            let mut array = FieldArray::default();
            while !values.0.is_empty() {
                array.push(read_value(&mut values, depth)?);
            }
            AMQPValue::FieldArray(array)
        }
        b'T' => AMQPValue::Timestamp(bytes.u64()?),
        b'F' => AMQPValue::FieldTable(read_table(&mut Bytes(bytes.long()?), inner()?)?),
        b'x' => AMQPValue::ByteArray(bytes.long()?.into()),
        b'V' => AMQPValue::Void,
        _ => return Err(Broken("a header is of a type that AMQP does not have")),
    })
}
