//! Bytes of a RabbitMQ connection: frames in pieces as at once, properties against the parser of the client library.

#![no_main]

use commlib::__fuzz::amqp;
use libfuzzer_sys::fuzz_target;

/// Frames of a channel around what was made up, so that not every input stops at the first byte.
fn framed(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in input.chunks(64) {
        let (head, payload) = part.split_at(part.len().min(2));
        let kind = head.first().map_or(1, |kind| kind % 4 + 1);
        let channel = head.get(1).map_or(1, |channel| channel % 3);
        bytes.extend_from_slice(&[kind, 0, channel, 0, 0, 0, payload.len() as u8]);
        bytes.extend_from_slice(payload);
        bytes.push(0xCE);
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    for bytes in [input.to_vec(), framed(input)] {
        let whole = amqp::split(&bytes, bytes.len());
        for piece in [1, 7] {
            assert_eq!(amqp::split(&bytes, piece), whole);
        }
        assert!(whole.for_library.len() <= bytes.len());
    }
    let (read, broken) = amqp::read_properties(input);
    if broken.is_none() {
        // What is read here is what the library reads, and what is written again is that.
        let (_, theirs) = lapin::protocol::basic::parse_properties(input).expect("the library reads it");
        assert_eq!(format!("{read:?}"), format!("{theirs:?}"));
        let (again, broken) = amqp::read_properties(&amqp::write_properties(&read));
        assert_eq!((format!("{again:?}"), broken), (format!("{read:?}"), None));
    }
});
