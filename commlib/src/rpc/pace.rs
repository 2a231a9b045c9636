//! How a method's handlers behave: whether they are done at once, so that a task for each would cost more than the work.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A handler that is done within this time, without waiting for anything, is quick. A task costs about a microsecond; what
/// several calls of one task could gain by running on several cores is worth one beyond this.
const QUICK: Duration = Duration::from_micros(100);
/// A method is quick after so many quick runs in a row, and no more after one that was not.
const RUNS: u32 = 16;

/// Counts the quick runs of a method.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU32);

impl Pace {
    /// Whether the next run can be expected to be quick.
    pub(super) fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= RUNS
    }

    /// A run was done after this time, without waiting.
    pub(super) fn done(&self, took: Duration) {
        if took > QUICK {
            self.waited();
        } else if !self.is_quick() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A run had to wait for something, or took long.
    pub(super) fn waited(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_and_lost() {
        let pace = Pace::default();
        let earn = || (0..RUNS).for_each(|_| pace.done(QUICK));
        for _ in 1..RUNS {
            pace.done(Duration::ZERO);
            assert!(!pace.is_quick());
        }
        pace.done(QUICK);
        assert!(pace.is_quick());
        pace.done(QUICK + Duration::from_nanos(1));
        assert!(!pace.is_quick());
        earn();
        assert!(pace.is_quick());
        pace.waited();
        assert!(!pace.is_quick());
    }
}
