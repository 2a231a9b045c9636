//! Bodies of MessagePack: the walker in front of serde, and serde behind it.

#![no_main]

use commlib::{__fuzz, Codec};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// serde's reader of MessagePack does not count the depth of these.
#[derive(Deserialize)]
enum Nested {
    #[allow(dead_code, reason = "only its depth matters")]
    Deeper(Box<Nested>),
    End,
}

fuzz_target!(|bytes: &[u8]| {
    let is_value = __fuzz::is_message_pack(bytes);
    assert_eq!(is_value, commlib_fuzz::message_pack::is_value(bytes));
    let codec = Codec::MessagePack;
    let read = [
        __fuzz::decode::<serde_json::Value>(codec, bytes).is_ok(),
        __fuzz::decode::<Nested>(codec, bytes).is_ok(),
        __fuzz::decode::<IgnoredAny>(codec, bytes).is_ok(),
    ];
    assert!(is_value || bytes.is_empty() || read == [false; 3]);
});
