//! Bytes as messages of Redis and of the in-process bus: in every dialect and codec.

#![no_main]

use bytes::Bytes;
use commlib::__fuzz;
use commlib::envelope::{Dialect, Envelope, commlib_py, native};
use commlib_fuzz::messages::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Some(usual) = __fuzz::usual(&bytes) {
        // What the short way takes, the long way reads to the same.
        assert_eq!(__fuzz::in_any_form(&bytes), Ok((usual.clone(), Dialect::Native)));
        assert_eq!(__fuzz::topic_in_any_form(&bytes), Ok(usual));
    }
    let _ = __fuzz::message_pack_route(&bytes);
    match native::decode(&bytes) {
        Ok((message, Dialect::Native)) => writes_back(&message),
        Ok((message, _)) => answers(&message),
        Err(malformed) => assert!(malformed.reason.len() < 200, "{}", malformed.reason),
    }
    if let Ok(message) = native::decode_topic(&bytes) {
        writes_back(&message);
    }
});

/// A bridge writes what it read: that must read back to the same.
fn writes_back(message: &Envelope) {
    let meta = &message.meta;
    let details = meta.error.iter().map(|error| &error.details);
    let is_json = meta.content_type.is_none();
    let mut bodies = details.chain([&message.data]).filter(|body| !body.is_empty());
    if is_json && !bodies.all(|body| json(body).is_some()) {
        return;
    }
    let wire = Bytes::from(native::encode(message, None));
    let mut wanted = message.clone();
    if is_json {
        let trimmed = |body: &Bytes| Bytes::copy_from_slice(json(body).unwrap_or_default().as_bytes());
        wanted.data = match trimmed(&message.data) {
            data if data.is_empty() => Bytes::from_static(b"null"),
            data => data,
        };
        if let Some(error) = &mut wanted.meta.error {
            error.details = match trimmed(&error.details) {
                details if details == "null" => Bytes::new(),
                details => details,
            };
        }
    }
    assert_eq!(native::decode(&wire), Ok((wanted, Dialect::Native)));
}

/// A server answers commlib-py with what it was sent.
fn answers(message: &Envelope) {
    let wire = commlib_py::encode_reply(message, message.meta.correlation_id.as_deref());
    let (read, dialect) = native::decode(&Bytes::from(wire)).expect("what we write can be read");
    assert_eq!(dialect, Dialect::CommlibPy);
    assert_eq!(read.meta.correlation_id, message.meta.correlation_id);
}
