//! What is subscribed to at Redis covers what a pattern means.

#![no_main]

use commlib::{__fuzz, Address, Pattern};
use commlib_fuzz::glob;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, address) = input;
    let Ok(pattern) = Pattern::new(pattern) else {
        return;
    };
    let (is_glob, name) = __fuzz::redis::covering(&pattern);
    assert_eq!(is_glob, !pattern.is_literal());
    // Nothing in it but `*` means anything to Redis, so a level stands for itself alone.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    assert!(
        name.bytes().all(|byte| plain(byte) || (is_glob && byte == b'*')),
        "{name}"
    );
    if !is_glob {
        assert_eq!(name, pattern.as_str());
        assert_eq!(
            glob::matches(name.as_bytes(), address.as_bytes()),
            address == name
        );
    } else if Address::new(address).is_ok() && pattern.matches(address) {
        assert!(
            glob::matches(name.as_bytes(), address.as_bytes()),
            "{name} misses {address}"
        );
    }
});
