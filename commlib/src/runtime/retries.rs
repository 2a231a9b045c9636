//! How often and how soon what the broker keeps is handled again.

use std::time::Duration;

/// The settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries {
    /// Deliveries at most.
    pub(crate) attempts: u32,
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 5,
            least: Duration::from_secs(1),
            most: Duration::from_secs(60),
        }
    }
}

impl Retries {
    /// How long a message rests after this attempt failed.
    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        self.least.saturating_mul(doubled).min(self.most)
    }
}

/// The longest reason of a dead letter, in bytes.
const MAX_REASON: usize = 4 * 1024;

/// A reason for people. A handler's error may be of any length.
pub(crate) fn bounded(mut reason: String) -> String {
    let end = (0..=MAX_REASON.min(reason.len()))
        .rev()
        .find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    reason
}

/// Why a message is given up that was delivered again and again and never settled.
pub(crate) fn too_often(deliveries: u32) -> String {
    format!(
        "it was delivered {deliveries} times and never handled: each time its handler failed or ended without a word"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_rests_for_twice_as_long_each_time_up_to_a_limit() {
        let retries = Retries::default();
        let delays = [1, 2, 3, 6, 7, 8, 100, u32::MAX].map(|attempt| retries.delay(attempt).as_secs());
        assert_eq!(delays, [1, 2, 4, 32, 60, 60, 60, 60]);
        let endless = Retries {
            most: Duration::MAX,
            ..retries
        };
        assert!(endless.delay(u32::MAX) >= endless.delay(31));
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        for (length, kept) in [
            (MAX_REASON - 1, MAX_REASON - 1),
            (MAX_REASON, MAX_REASON),
            (MAX_REASON + 1, MAX_REASON),
        ] {
            assert_eq!(bounded("x".repeat(length)).len(), kept);
        }
        // Each has two bytes, from an odd place on.
        let cut = bounded(format!("x{}", "é".repeat(MAX_REASON)));
        assert_eq!(cut.len(), MAX_REASON - 1);
    }
}
