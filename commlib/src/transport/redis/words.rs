//! Items of lists on their way to the broker: as words of a command, in the form that they have on the connection.
//!
//! Small ones are copied together. The bodies of large ones are kept apart until the write, so that each is copied once.

use bytes::Bytes;

use super::resp;
use crate::envelope::Encoded;

/// Words, in their order.
#[derive(Default)]
pub(super) struct Words {
    bytes: Vec<u8>,
    /// Where in `bytes` large bodies belong.
    bodies: Vec<(usize, Bytes)>,
    /// The bytes of all.
    len: usize,
}

impl Words {
    /// The most room that is made ahead.
    const AHEAD: usize = 32 * 1024;

    /// With room for about so many bytes, so that they need not be moved as more come.
    pub(super) fn with_room(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes.min(Self::AHEAD)),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, item: Encoded) {
        let before = self.bytes.len();
        if item.body.is_empty() {
            word(&mut self.bytes, &item);
        } else {
            let (head, tail) = item.bytes.split_at(item.at);
            resp::length(&mut self.bytes, b'$', item.len());
            self.bytes.extend_from_slice(head);
            self.bodies.push((self.bytes.len(), item.body.clone()));
            self.bytes.extend_from_slice(tail);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.len += self.bytes.len() - before + item.body.len();
    }

    /// How many bytes they have on the connection.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends them to a command.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let mut from = 0;
        for (at, body) in &self.bodies {
            out.extend_from_slice(&self.bytes[from..*at]);
            out.extend_from_slice(body);
            from = *at;
        }
        out.extend_from_slice(&self.bytes[from..]);
    }
}

/// Appends an item as a word of a command.
pub(super) fn word(out: &mut Vec<u8>, item: &Encoded) {
    out.reserve(item.len() + 32);
    let (head, tail) = item.bytes.split_at(item.at);
    resp::length(out, b'$', item.len());
    for part in [head, &item.body, tail, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, native};

    #[test]
    fn are_written_in_their_order_large_or_small() {
        let (mut words, mut alone, mut expected) = (Words::default(), Vec::new(), Vec::new());
        let mut largest = 0;
        for (size, content_type) in [
            (0, None),
            (10, None),
            (5_000, None),
            (9_000, Some("x")),
            (20, None),
            (3_000, None),
        ] {
            let mut message = Envelope {
                data: vec![b'7'; size].into(),
                ..Envelope::default()
            };
            message.meta.content_type = content_type.map(str::to_owned);
            resp::word(&mut expected, &native::encode(&message, Some("list")));
            let item = native::encode_apart(&message, Some("list"));
            word(&mut alone, &item);
            largest = largest.max(item.bytes.len());
            words.add(item);
        }
        assert_eq!(alone, expected);
        words.add(b"as it is".to_vec().into());
        resp::word(&mut expected, b"as it is");
        let mut out = b"before ".to_vec();
        words.write(&mut out);
        assert_eq!(out, [&b"before "[..], &expected].concat());
        assert_eq!(words.len(), expected.len());
        assert!(largest < 1_000, "large bodies are not copied: {largest}");
    }
}
