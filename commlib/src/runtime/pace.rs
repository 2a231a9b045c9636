//! How the handlers of a method or topic behave: whether they are done at once, so that a task for each would cost more
//! than the work.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// After so many runs in a row that were quick enough, the next is expected to be, too; after one that was not, no more.
const RUNS: u32 = 16;

/// Who is kept waiting while a handler runs where its request or message was delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiter {
    /// Only the caller, which has nothing else to do: a task costs it about a microsecond, and what several calls of one
    /// task could gain by running on several cores is worth one beyond 100 µs.
    Caller,
    /// A connection or a buffer, with all that came with this one: a batch of 64 is handed out within about a millisecond.
    Connection,
}

impl Waiter {
    const fn patience(self) -> Duration {
        Duration::from_micros(match self {
            Self::Caller => 100,
            Self::Connection => 15,
        })
    }
}

/// Counts the quick runs of a method or topic in a row, those that are quick enough for each kind of waiter.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    caller: AtomicU32,
    connection: AtomicU32,
}

impl Pace {
    fn runs(&self, waiter: Waiter) -> &AtomicU32 {
        match waiter {
            Waiter::Caller => &self.caller,
            Waiter::Connection => &self.connection,
        }
    }

    /// Whether the next run can be expected to be quick enough.
    pub(crate) fn is_quick(&self, waiter: Waiter) -> bool {
        self.runs(waiter).load(Ordering::Relaxed) >= RUNS
    }

    /// A run was done after this time, without waiting for anything.
    pub(crate) fn done(&self, took: Duration) {
        for waiter in [Waiter::Caller, Waiter::Connection] {
            if took > waiter.patience() {
                self.runs(waiter).store(0, Ordering::Relaxed);
            } else if !self.is_quick(waiter) {
                self.runs(waiter).fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A run had to wait for something.
    pub(crate) fn waited(&self) {
        self.done(Duration::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_and_lost() {
        let pace = Pace::default();
        let quick = || (pace.is_quick(Waiter::Caller), pace.is_quick(Waiter::Connection));
        let (short, long) = (Waiter::Connection.patience(), Waiter::Caller.patience());
        let nanosecond = Duration::from_nanos(1);
        for _ in 1..RUNS {
            pace.done(short);
            assert_eq!(quick(), (false, false));
        }
        pace.done(short);
        assert_eq!(quick(), (true, true));
        pace.done(short + nanosecond);
        assert_eq!(quick(), (true, false));
        (0..RUNS).for_each(|_| pace.done(short));
        assert_eq!(quick(), (true, true));
        pace.done(long + nanosecond);
        assert_eq!(quick(), (false, false));
        (0..RUNS).for_each(|_| pace.done(long));
        assert_eq!(quick(), (true, false));
        pace.waited();
        assert_eq!(quick(), (false, false));
    }
}
