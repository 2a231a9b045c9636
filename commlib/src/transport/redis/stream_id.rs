//! The id of an entry of a stream: the broker's time in ms, and a number within it.

use super::resp;

/// Small and without memory of its own, as each message has one that several places keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId {
    ms: u64,
    number: u64,
}

/// The longest text of an id.
const MOST: usize = 41;

impl EntryId {
    /// Reads what the broker wrote.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (ms, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// Appends it as a word of a command.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut text = [0; MOST];
        let length = self.put(&mut text);
        resp::word(out, &text[..length]);
    }

    pub(super) fn text(self) -> Vec<u8> {
        let mut text = [0; MOST];
        let length = self.put(&mut text);
        text[..length].to_vec()
    }

    fn put(self, text: &mut [u8; MOST]) -> usize {
        let (mut ms, mut number) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut length = 0;
        for part in [ms.format(self.ms), "-", number.format(self.number)] {
            text[length..length + part.len()].copy_from_slice(part.as_bytes());
            length += part.len();
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        for text in [
            "0-0",
            "1700000000000-17",
            "18446744073709551615-18446744073709551615",
        ] {
            let id = EntryId::read(text.as_bytes()).unwrap();
            assert_eq!(id.text(), text.as_bytes());
            let mut word = Vec::new();
            id.write(&mut word);
            assert_eq!(word, format!("${}\r\n{text}\r\n", text.len()).as_bytes());
        }
        for text in ["", "1", "-", "1-", "-1", "a-1", "1-2-3", "18446744073709551616-0"] {
            assert_eq!(EntryId::read(text.as_bytes()), None, "{text}");
        }
        assert!(EntryId::read(b"9-1") < EntryId::read(b"10-0"));
    }
}
