//! The seed of what tests draw.

/// `COMMLIB_SEED`, or a new one, which is printed.
///
/// # Panics
/// When the variable is no number.
pub fn seed() -> u64 {
    let set = std::env::var("COMMLIB_SEED").ok();
    let seed = set.map_or_else(rand::random, |seed| {
        seed.parse().expect("COMMLIB_SEED is a number")
    });
    println!("COMMLIB_SEED={seed}");
    seed
}
