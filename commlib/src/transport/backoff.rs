//! The delays between tries to reconnect: exponential with full jitter, capped, without an end.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(50);
/// Nodes are to be back within three seconds of a broker that was away for long: the last try before it came may have been
/// made a moment earlier.
const CAP: Duration = Duration::from_secs(2);

/// Yields the next delay each time it is asked, for ever.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(
            ExponentialBuilder::new()
                .with_min_delay(FIRST)
                .with_max_delay(CAP)
                .with_factor(2.0)
                .with_jitter()
                .without_max_times()
                .build(),
        )
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        // backon adds up to one delay on top as jitter; spreading the sum over the whole range is what keeps many
        // clients apart.
        self.0
            .next()
            .unwrap_or(CAP)
            .min(CAP)
            .mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_never_ends() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_delay() <= FIRST * 2);
        let delays: Vec<_> = (0..1000).map(|_| backoff.next_delay()).collect();
        assert!(delays.iter().all(|delay| *delay <= CAP));
        assert!(delays[20..].iter().all(|delay| *delay >= CAP / 2));
        assert!(CAP + Duration::from_millis(500) < Duration::from_secs(3));
    }
}
