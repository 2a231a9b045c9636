//! Message ids: 24 characters of `[A-Za-z0-9_-]`, 18 bytes of which at least 14 are random.
//!
//! A call's id starts with its place in the table of calls in flight, so that a reply finds its call without a hash;
//! the random rest is what makes an id that nobody can guess.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How long an id is.
pub(crate) const LEN: usize = 24;
/// The bytes that an id's characters stand for.
const BYTES: usize = 18;
/// The characters that a key is read from, and the bytes that they stand for.
const KEY: (usize, usize) = (8, 6);

/// A random id.
pub(crate) fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>())
}

/// The id of a call, in the form that is kept while it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallId([u8; LEN]);

impl CallId {
    /// A random id that begins with a key.
    pub(crate) fn with_key(key: u32) -> Self {
        let mut bytes = rand::random::<[u8; BYTES]>();
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        let mut text = [b'-'; LEN];
        // 18 bytes are 24 characters; were they not, the rest would be dashes.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        Self(text)
    }

    /// The key that an id begins with, if it is one.
    pub(crate) fn key(id: &str) -> Option<u32> {
        let mut bytes = [0; KEY.1];
        let text = id.as_bytes().get(..KEY.0).filter(|_| id.len() == LEN)?;
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether this is the id.
    pub(crate) fn is(&self, id: &str) -> bool {
        self.0 == id.as_bytes()
    }

    /// As it goes on the wire.
    pub(crate) fn text(&self) -> String {
        str::from_utf8(&self.0).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back() {
        for key in [0, 1, 77, u32::MAX] {
            let id = CallId::with_key(key);
            let text = id.text();
            assert_eq!((text.len(), CallId::key(&text)), (LEN, Some(key)));
            assert!(id.is(&text) && !CallId::with_key(key).is(&text));
            assert!(
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
        }
        assert_eq!(random().len(), LEN);
        for foreign in ["", "x", "é".repeat(12).as_str(), "!".repeat(24).as_str()] {
            assert_eq!(CallId::key(foreign), None);
        }
    }
}
