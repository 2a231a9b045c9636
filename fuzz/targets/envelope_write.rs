//! Made-up messages, written and read back.

#![no_main]

use bytes::Bytes;
use commlib::envelope::{Dialect, commlib_py, native};
use commlib_fuzz::messages::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Message, Option<String>)| {
    let (Message(mut message), reply_to) = input;
    let wire = Bytes::from(native::encode(&message, reply_to.as_deref()));
    let read = native::decode(&wire);
    // Names that are reserved are none of a header, and no reader takes more than a few hundred.
    let names: Vec<_> = message
        .meta
        .headers
        .iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    if names.len() > 200 {
        return;
    }
    for name in names.iter().filter(|name| name.starts_with("commlib-")) {
        message.meta.headers.remove(name);
    }
    assert_eq!(
        native::decode_topic(&wire).ok().as_ref(),
        read.as_ref().ok().map(|(read, _)| read)
    );
    let is_json = message.meta.content_type.is_none();
    let request = is_json.then(|| commlib_py::encode_request(&message, "rpc-x"));
    if reply_to.is_some() {
        message.meta.reply_to = reply_to;
    }
    if is_json {
        if message.data.is_empty() {
            message.data = Bytes::from_static(b"null");
        }
        if let Some(error) = &mut message.meta.error
            && error.details == "null"
        {
            error.details = Bytes::new();
        }
    }
    assert_eq!(read, Ok((message.clone(), Dialect::Native)));
    let Some(request) = request else { return };
    let (read, dialect) = native::decode(&request.into()).expect("what we write can be read");
    assert_eq!(
        (dialect, read.meta.reply_to.as_deref()),
        (Dialect::CommlibPy, Some("rpc-x"))
    );
    let reply = commlib_py::encode_reply(&message, message.meta.correlation_id.as_deref());
    let (read, _) = native::decode(&reply.into()).expect("what we write can be read");
    assert_eq!(read.meta.error, message.meta.error);
});
