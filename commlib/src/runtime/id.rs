//! Message ids: 24 characters of `[A-Za-z0-9_-]`, 18 bytes of which at least 14 are random.
//!
//! A call's id starts with its place in the table of calls in flight, so that a reply finds its call without a hash;
//! the random rest is what makes an id that nobody can guess.

use rand::Rng;

/// How long an id is.
pub(crate) const LEN: usize = 24;
/// The bytes that an id's characters stand for.
const BYTES: usize = 18;
/// How many of them are a call's key.
const KEY_BYTES: usize = 4;
/// The characters that a key is read from, whose last bits are random.
const KEY: usize = 6;

/// What six bits are written as: base64 for URLs.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The six bits that a character stands for, or [`NO_DIGIT`].
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};
const NO_DIGIT: u8 = 0xff;

/// A random id.
pub(crate) fn random() -> String {
    let mut bytes = [0; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    text(&write(&bytes))
}

/// An id of these bytes. Written out here, because a call spends as much time on a general encoder as on the random bytes.
fn write(bytes: &[u8; BYTES]) -> [u8; LEN] {
    let mut id = [0; LEN];
    for (digits, bytes) in id.chunks_exact_mut(4).zip(bytes.chunks_exact(3)) {
        let [a, b, c] = [bytes[0], bytes[1], bytes[2]].map(usize::from);
        digits[0] = DIGITS[a >> 2];
        digits[1] = DIGITS[(a << 4 | b >> 4) & 63];
        digits[2] = DIGITS[(b << 2 | c >> 6) & 63];
        digits[3] = DIGITS[c & 63];
    }
    id
}

fn text(id: &[u8; LEN]) -> String {
    str::from_utf8(id).unwrap_or_default().to_owned()
}

/// The id of a call, in the form that is kept while it is in flight. Aligned, since it is checked to be text in whole words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(8))]
pub(crate) struct CallId([u8; LEN]);

impl CallId {
    /// A random id that begins with a key.
    pub(crate) fn with_key(key: u32) -> Self {
        let mut bytes = [0; BYTES];
        let (own, random) = bytes.split_at_mut(KEY_BYTES);
        own.copy_from_slice(&key.to_be_bytes());
        rand::rng().fill_bytes(random);
        Self(write(&bytes))
    }

    /// The key that an id begins with, if it is one.
    pub(crate) fn key(id: &str) -> Option<u32> {
        let mut bits = 0_u64;
        for character in id.as_bytes().get(..KEY).filter(|_| id.len() == LEN)? {
            let value = VALUES[usize::from(*character)];
            if value == NO_DIGIT {
                return None;
            }
            bits = bits << 6 | u64::from(value);
        }
        u32::try_from(bits >> (6 * KEY - 32)).ok()
    }

    /// Whether this is the id.
    pub(crate) fn is(&self, id: &str) -> bool {
        self.0 == id.as_bytes()
    }

    /// As it goes on the wire.
    pub(crate) fn text(&self) -> String {
        text(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_base64() {
        use base64::Engine;
        for byte in [0, 1, 0x5a, 0xa5, 0xff] {
            let bytes = std::array::from_fn(|at| byte ^ (at as u8 * 7));
            let expected = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            assert_eq!(text(&write(&bytes)), expected);
        }
    }

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
