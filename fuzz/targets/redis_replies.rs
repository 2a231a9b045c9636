//! A broker that says anything: what comes in pieces is read as what comes at once, and answers of pops are taken apart.

#![no_main]

use commlib::__fuzz::redis::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, modern, bytes) = input;
    // Small enough to be reached.
    let limit = 8 * 1024;
    let whole = read([bytes], limit);
    let pieces = read(bytes.chunks(usize::from(size).max(1)), limit);
    assert_eq!(whole, pieces);
    assert!(whole.len() <= bytes.len());
    whole.pop(&["a", "calculator.add"], modern);
});
