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

    /// The first delays at their longest: each twice the one before, with jitter of as much again, up to the cap.
    fn longest(tries: u32) -> Duration {
        (FIRST * 2).saturating_mul(2_u32.saturating_pow(tries)).min(CAP)
    }

    #[test]
    fn grows_to_the_cap_and_never_ends() {
        for _ in 0..200 {
            let mut backoff = Backoff::new();
            for tries in 0..100 {
                let (delay, longest) = (backoff.next_delay(), longest(tries));
                assert!(
                    delay <= longest && delay >= longest / 4,
                    "{delay:?} is not within {:?}..{longest:?}",
                    longest / 4
                );
            }
        }
        assert!(CAP + Duration::from_millis(500) < Duration::from_secs(3));
    }

    /// How many of 200 nodes, which lost their connections together, try within the fullest tenth of a second of those
    /// in which the broker is back, and the time that the last one takes.
    fn crowd(away: Duration) -> (usize, Duration) {
        let mut arrivals: Vec<_> = (0..200)
            .map(|_| {
                let mut backoff = Backoff::new();
                let mut at = Duration::ZERO;
                while at < away {
                    at += backoff.next_delay();
                }
                at - away
            })
            .collect();
        arrivals.sort_unstable();
        let within = |from: Duration| {
            let window = from..from + Duration::from_millis(100);
            arrivals.iter().filter(|at| window.contains(*at)).count()
        };
        let fullest = arrivals.iter().map(|at| within(*at)).max().unwrap();
        (fullest, arrivals[199])
    }

    #[test]
    fn many_nodes_come_back_spread_and_soon() {
        for away in [1, 3, 10, 60] {
            let (fullest, last) = crowd(Duration::from_secs(away));
            assert!(fullest <= 80, "{fullest} of 200 within 100 ms, after {away} s");
            assert!(last <= CAP, "{last:?} after {away} s");
        }
    }
}
