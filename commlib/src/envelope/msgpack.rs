//! The native envelope in MessagePack, for bodies that are no JSON: `{"meta": {…}, "data": <bytes>}`.
//!
//! The body is a byte string in it, in whatever form its content type names, so that it is neither parsed nor copied
//! here. `meta` comes first: of a message that is too large to take, its beginning says whom to answer.

use bytes::Bytes;

use super::{Encoded, Envelope, Headers, JSON, Malformed, Meta, WireError};
use crate::codec::message_pack::{
    Fault, Reader, Token, write_bytes, write_bytes_length, write_map, write_text, write_uint,
};
use crate::error::Execution;

/// Whether bytes are this envelope rather than JSON: no JSON text begins like a MessagePack map.
pub(crate) fn is_message(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf))
}

/// Writes an envelope. `reply_to` takes the place of [`Meta::reply_to`].
pub(super) fn encode(message: &Envelope, reply_to: Option<&str>, apart: bool) -> Encoded {
    let meta = &message.meta;
    let mut encoded = Encoded::for_body(&message.data, 192, apart);
    let out = &mut encoded.bytes;
    let texts = [
        ("id", meta.id.as_deref()),
        ("correlation_id", meta.correlation_id.as_deref()),
        ("reply_to", reply_to.or(meta.reply_to.as_deref())),
    ];
    let numbers = [("timestamp", meta.timestamp), ("timeout_ms", meta.timeout_ms)];
    let fields = 1
        + texts.iter().filter(|(_, text)| text.is_some()).count()
        + numbers.iter().filter(|(_, number)| number.is_some()).count()
        + usize::from(!meta.headers.is_empty())
        + usize::from(meta.error.is_some());
    write_map(out, 2);
    write_text(out, "meta");
    write_map(out, fields);
    for (name, text) in texts {
        if let Some(text) = text {
            write_text(out, name);
            write_text(out, text);
        }
    }
    for (name, number) in numbers {
        if let Some(number) = number {
            write_text(out, name);
            write_uint(out, number);
        }
    }
    write_text(out, "properties");
    write_map(out, 1 + usize::from(meta.content_encoding.is_some()));
    write_text(out, "content_type");
    write_text(out, meta.content_type.as_deref().unwrap_or(JSON));
    if let Some(encoding) = &meta.content_encoding {
        write_text(out, "content_encoding");
        write_text(out, encoding);
    }
    if !meta.headers.is_empty() {
        write_text(out, "headers");
        write_map(out, meta.headers.len());
        for (name, value) in meta.headers.iter() {
            write_text(out, name);
            write_text(out, value);
        }
    }
    if let Some(error) = &meta.error {
        write_text(out, "error");
        write_error(out, error);
    }
    write_text(out, "data");
    write_bytes_length(out, message.data.len());
    encoded.put(&message.data, apart);
    encoded
}

fn write_error(out: &mut Vec<u8>, error: &WireError) {
    let details = (!error.details.is_empty()).then_some(&error.details);
    write_map(
        out,
        2 + usize::from(error.execution.is_some()) + usize::from(details.is_some()),
    );
    for (name, text) in [
        ("code", Some(error.code.as_str())),
        ("message", Some(error.message.as_str())),
        ("execution", error.execution.map(Execution::as_str)),
    ] {
        if let Some(text) = text {
            write_text(out, name);
            write_text(out, text);
        }
    }
    if let Some(details) = details {
        write_text(out, "details");
        write_bytes(out, details);
    }
}

/// Reads an envelope.
///
/// # Errors
/// When it is none; the error carries the reply address where there is one.
pub(super) fn decode(bytes: &Bytes) -> Result<Envelope, Malformed> {
    read(bytes).map_err(|fault| Malformed {
        reason: fault.to_string(),
        ..route(bytes)
    })
}

fn read(bytes: &Bytes) -> Result<Envelope, Fault> {
    let mut reader = Reader::new(bytes);
    let (mut data, mut meta) = (Bytes::new(), None);
    let fields = map(&mut reader, "an envelope is a map")?;
    for _ in 0..fields {
        match reader.token()? {
            Token::Text(b"data") => data = body(bytes, &mut reader)?,
            Token::Text(b"meta") => meta = Some(read_meta(bytes, &mut reader)?),
            Token::Text(_) => reader.skip()?,
            _ => return Err(reader.fault("a key is no text")),
        }
    }
    reader.end()?;
    match meta {
        Some(meta) => Ok(Envelope { data, meta }),
        None => Err(reader.fault("it has no `meta`, missed")),
    }
}

fn read_meta(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Meta, Fault> {
    let mut meta = Meta::default();
    for _ in 0..map(reader, "`meta` is a map")? {
        match reader.token()? {
            Token::Text(b"id") => meta.id = text(reader)?,
            Token::Text(b"correlation_id") => meta.correlation_id = text(reader)?,
            Token::Text(b"reply_to") => meta.reply_to = text(reader)?,
            Token::Text(b"timestamp") => meta.timestamp = number(reader)?,
            Token::Text(b"timeout_ms") => meta.timeout_ms = number(reader)?,
            Token::Text(b"properties") => (meta.content_type, meta.content_encoding) = properties(reader)?,
            Token::Text(b"headers") => meta.headers = headers(reader)?,
            Token::Text(b"error") => meta.error = error(bytes, reader)?.map(Box::new),
            Token::Text(_) => reader.skip()?,
            _ => return Err(reader.fault("a key is no text")),
        }
    }
    Ok(meta)
}

/// The content type and the content encoding.
fn properties(reader: &mut Reader<'_>) -> Result<(Option<String>, Option<String>), Fault> {
    let mut found = (None, None);
    for _ in 0..map_or_nil(reader, "`properties` is a map")? {
        match reader.token()? {
            Token::Text(b"content_type") => found.0 = text(reader)?.filter(|name| name != JSON),
            Token::Text(b"content_encoding") => found.1 = text(reader)?,
            Token::Text(_) => reader.skip()?,
            _ => return Err(reader.fault("a key is no text")),
        }
    }
    Ok(found)
}

/// Takes texts and skips other values, which are not headers of ours.
fn headers(reader: &mut Reader<'_>) -> Result<Headers, Fault> {
    let mut headers = Headers::new();
    for _ in 0..map_or_nil(reader, "`headers` is a map")? {
        let Token::Text(name) = reader.token()? else {
            return Err(reader.fault("a key is no text"));
        };
        let before = reader.clone();
        if let Token::Text(value) = reader.token()? {
            headers.receive(utf8(reader, name)?, utf8(reader, value)?);
        } else {
            *reader = before;
            reader.skip()?;
        }
    }
    Ok(headers)
}

fn error(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Option<WireError>, Fault> {
    let mut error = WireError {
        code: String::new(),
        message: String::new(),
        details: Bytes::new(),
        execution: None,
    };
    let fields = match reader.token()? {
        Token::Nil => return Ok(None),
        Token::Map(fields) => fields,
        _ => return Err(reader.fault("`error` is a map")),
    };
    for _ in 0..fields {
        match reader.token()? {
            Token::Text(b"code") => error.code = text(reader)?.unwrap_or_default(),
            Token::Text(b"message") => error.message = text(reader)?.unwrap_or_default(),
            Token::Text(b"execution") => {
                error.execution = text(reader)?.map(|word| Execution::from_wire(&word))
            }
            Token::Text(b"details") => error.details = body(bytes, reader)?,
            Token::Text(_) => reader.skip()?,
            _ => return Err(reader.fault("a key is no text")),
        }
    }
    Ok(Some(error))
}

fn map(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, Fault> {
    match reader.token()? {
        Token::Map(pairs) => Ok(pairs),
        _ => Err(reader.fault(what)),
    }
}

fn map_or_nil(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, Fault> {
    match reader.token()? {
        Token::Map(pairs) => Ok(pairs),
        Token::Nil => Ok(0),
        _ => Err(reader.fault(what)),
    }
}

/// An encoded body: a byte string, shared with the message.
fn body(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes, Fault> {
    match reader.token()? {
        Token::Bytes(body) => Ok(bytes.slice_ref(body)),
        Token::Nil => Ok(Bytes::new()),
        _ => Err(reader.fault("a body is a byte string")),
    }
}

fn text(reader: &mut Reader<'_>) -> Result<Option<String>, Fault> {
    match reader.token()? {
        Token::Text(text) => utf8(reader, text).map(Some),
        Token::Nil => Ok(None),
        _ => Err(reader.fault("a field is no text")),
    }
}

fn utf8(reader: &Reader<'_>, text: &[u8]) -> Result<String, Fault> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(reader.fault("a text is not UTF-8")),
    }
}

fn number(reader: &mut Reader<'_>) -> Result<Option<u64>, Fault> {
    match reader.token()? {
        Token::Uint(number) => Ok(Some(number)),
        Token::Nil => Ok(None),
        _ => Err(reader.fault("a field is no whole number")),
    }
}

/// Looks for somebody to answer in a message that can't be read, or of which there is only the beginning.
pub(crate) fn route(bytes: &[u8]) -> Malformed {
    let mut found = Malformed::new("it can't be read");
    let mut id = None;
    // Up to the first fault; what was found by then counts.
    let _ = look(bytes, &mut found, &mut id);
    found.correlation_id = found.correlation_id.or(id);
    found
}

fn look(bytes: &[u8], found: &mut Malformed, id: &mut Option<String>) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    for _ in 0..map(&mut reader, "an envelope is a map")? {
        if reader.token()? != Token::Text(b"meta") {
            reader.skip()?;
            continue;
        }
        for _ in 0..map(&mut reader, "`meta` is a map")? {
            let key = reader.token()?;
            let mut value = reader.clone();
            reader.skip()?;
            match key {
                Token::Text(b"reply_to") => found.reply_to = text(&mut value).unwrap_or_default(),
                Token::Text(b"correlation_id") => found.correlation_id = text(&mut value).unwrap_or_default(),
                Token::Text(b"id") => *id = text(&mut value).unwrap_or_default(),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Dialect, native};
    use super::*;

    fn message() -> Envelope {
        Envelope {
            data: Bytes::from_static(b"\x81\xa1a\x01"),
            meta: Meta {
                id: Some("the-id".into()),
                content_type: Some("application/msgpack".into()),
                ..Meta::default()
            },
        }
    }

    #[test]
    fn a_body_that_is_no_json_takes_this_envelope() {
        let wire = Bytes::from(native::encode(&message(), Some("list")));
        assert!(is_message(&wire));
        let (read, dialect) = native::decode(&wire).unwrap();
        assert_eq!(dialect, Dialect::Native);
        assert_eq!(read.meta.reply_to.as_deref(), Some("list"));
        assert_eq!(read.data, message().data);
        assert!(wire.as_ptr_range().contains(&read.data.as_ptr()));
        assert!(!is_message(&native::encode(&Envelope::default(), None)));
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        let wire = b"\x83\xa1v\x02\xa4meta\x83\xa5later\x91\x01\xa7headers\x82\xa1a\xa1b\xa1n\x93\x01\x80\xc0\xaaproperties\xc0\xa4data\xc4\x00";
        let read = decode(&Bytes::from_static(wire)).unwrap();
        assert_eq!(read.meta.headers.get("a"), Some("b"));
        assert_eq!(read.meta.headers.len(), 1);
        assert_eq!((read.data.len(), read.meta.content_type), (0, None));
    }

    #[test]
    fn other_maps_are_refused_with_whom_to_answer() {
        let route_of = |wire: &[u8]| {
            let error = decode(&Bytes::copy_from_slice(wire)).unwrap_err();
            (error.reply_to, error.correlation_id)
        };
        let nobody = (None, None);
        for wire in [
            &b"\x80"[..],
            b"\x81\xa4data\xc4\x00",
            b"\x81\xa4meta\x80\x00",
            b"\x81\xa4meta\x90",
            b"\x81\xa4meta\x81\x00\x00",
            b"\x81\xa4meta\x81\xa2id\xa1\xff",
            b"\x82\xa4meta\x80\xa4data\xa1x",
        ] {
            assert_eq!(route_of(wire), nobody, "{wire:?}");
        }
        let known = (Some("r".to_owned()), Some("i".to_owned()));
        assert_eq!(
            route_of(b"\x81\xa4meta\x83\xa2id\xa1i\xa8reply_to\xa1r\xaatimeout_ms\xa4soon"),
            known
        );
        assert_eq!(
            route_of(b"\x82\xa4data\x07\xa4meta\x82\xa8reply_to\xa1r\xa2id\xa1i"),
            known
        );
    }

    #[test]
    fn the_beginning_tells_the_way_back() {
        let mut message = message();
        message.data = vec![0; 100_000].into();
        let wire = encode(&message, Some("list"), false).bytes;
        let found = route(&wire[..100]);
        assert_eq!(
            (found.reply_to.as_deref(), found.correlation_id.as_deref()),
            (Some("list"), Some("the-id"))
        );
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{1,8}", any::<String>(), "x{250,260}"]
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(
            id in prop::option::of(text()), correlation_id in prop::option::of(text()),
            reply_to in prop::option::of(text()), timestamp in any::<Option<u64>>(), timeout_ms in any::<Option<u64>>(),
            content_type in prop::option::of(text().prop_filter("the default is left out", |text| text != JSON)),
            content_encoding in prop::option::of(text()),
            headers in prop::collection::vec((text(), text()), 0..20),
            error in prop::option::of((text(), text(), prop::collection::vec(any::<u8>(), 0..40))),
            data in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut message = Envelope { data: data.into(), meta: Meta {
                id, correlation_id, reply_to, timestamp, timeout_ms, content_type, content_encoding, ..Meta::default()
            }};
            for (name, value) in headers {
                message.meta.headers.insert(name, value);
            }
            message.meta.error = error.map(|(code, message, details)| Box::new(WireError {
                code, message,
                execution: (!details.is_empty()).then_some(Execution::Failed),
                details: details.into(),
            }));
            let wire = Bytes::from(encode(&message, None, false).bytes);
            prop_assert_eq!(decode(&wire).unwrap(), message);
            for end in (0..wire.len()).step_by(wire.len() / 10) {
                prop_assert!(decode(&wire.slice(..end)).is_err());
            }
        }

        #[test]
        fn takes_any_bytes(junk in prop::collection::vec(any::<u8>(), 0..64)) {
            let junk = Bytes::from([&[0x82, 0xa4][..], b"meta", &junk].concat());
            let _ = decode(&junk);
        }
    }
}
