//! Message ids: 24 characters of `[A-Za-z0-9_-]`, 18 bytes of which at least 14 are random.
//!
//! A call's id starts with its place in the table of calls in flight, so that a reply finds its call without a hash;
//! the random rest is what makes an id that nobody can guess.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How long an id is.
pub(crate) const LEN: usize = 24;

/// A random id.
pub(crate) fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())
}

/// A random id that begins with a key.
pub(crate) fn with_key(key: u32) -> String {
    let mut bytes = rand::random::<[u8; 18]>();
    bytes[..4].copy_from_slice(&key.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key that an id begins with.
pub(crate) fn key(id: &str) -> Option<u32> {
    let mut bytes = [0; 18];
    if id.len() != LEN || URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()? != bytes.len() {
        return None;
    }
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_comes_back() {
        for key in [0, 1, 77, u32::MAX] {
            let id = super::with_key(key);
            assert_eq!((id.len(), super::key(&id)), (super::LEN, Some(key)));
            assert!(
                id.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
        }
        assert_eq!(super::random().len(), super::LEN);
        for foreign in ["", "x", "é".repeat(12).as_str(), "!".repeat(24).as_str()] {
            assert_eq!(super::key(foreign), None);
        }
    }
}
