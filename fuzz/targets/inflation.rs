//! Compressed bodies: unpacking made-up bytes stays within its limits, and what was packed comes back.

#![no_main]

use commlib::{__fuzz, Compression, Limits};
use libfuzzer_sys::fuzz_target;

/// Small, so that short inputs get there.
const MOST: usize = 16 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::new().inflated(MOST);
    for compression in [Compression::Zlib, Compression::Zstd] {
        let encoding = compression.content_encoding();
        if let Ok(body) = __fuzz::inflate(encoding, bytes, &limits) {
            assert!(body.len() <= MOST);
        }

        // Long enough to be worth it, and soon over the limit.
        let times = 1 + 4 * usize::from(bytes.first().copied().unwrap_or(0));
        let body = bytes.repeat(times);
        let Some(packed) = __fuzz::deflate(compression, &body) else {
            continue;
        };
        match __fuzz::inflate(encoding, &packed, &limits) {
            Ok(unpacked) => assert_eq!(unpacked, body),
            Err(_) => assert!(body.len() > MOST),
        }
        if let Some((_, cut)) = packed.split_last() {
            assert!(__fuzz::inflate(encoding, cut, &limits).is_err());
        }
        let more = [&packed[..], b"x"].concat();
        assert!(__fuzz::inflate(encoding, &more, &limits).is_err());
    }
});
