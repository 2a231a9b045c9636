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

/// A random id.
pub(crate) fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>())
}

/// The id of a call, in the form that is kept while it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallId([u8; BYTES]);

impl CallId {
    /// A random id that begins with a key.
    pub(crate) fn with_key(key: u32) -> Self {
        let mut bytes = rand::random::<[u8; BYTES]>();
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        Self(bytes)
    }

    /// Reads what [`text`](Self::text) wrote; `None` for what it can't have written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        if text.len() != LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()? != BYTES {
            return None;
        }
        Some(Self(bytes))
    }

    /// The key that it begins with.
    pub(crate) fn key(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// As it goes on the wire.
    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
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
            assert_eq!((text.len(), id.key(), CallId::parse(&text)), (LEN, key, Some(id)));
            assert!(
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
        }
        assert_eq!(random().len(), LEN);
        for foreign in ["", "x", "é".repeat(12).as_str(), "!".repeat(24).as_str()] {
            assert_eq!(CallId::parse(foreign), None);
        }
    }
}
