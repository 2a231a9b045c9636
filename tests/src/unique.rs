//! Names that no other test uses.

/// `name` with a random ending: one address level (`[A-Za-z0-9_-]+`) that keeps a test apart from the others
/// on a shared broker.
pub fn unique(name: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bits: u64 = rand::random();
    let mut out = format!("{name}-");
    for _ in 0..10 {
        out.push(char::from(LETTERS[(bits & 31) as usize]));
        bits >>= 5;
    }
    out
}
