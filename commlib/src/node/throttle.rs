//! Keeps a node from sending calls that are refused anyway.
//!
//! A call that the broker or its server refuses for want of room costs the broker as much as one that is served, so a flood
//! of them leaves the servers less of it. From the first refusal on, an address is watched: each call to it spends a
//! credit, each one that is not refused brings its own back (unless its caller gave up), and besides there are so many new
//! ones a second as may be refused. So what is sent is what the servers do, and a little more; all nodes that send too much
//! have the same of that little, which is what makes them equal. Without refusals the little doubles every second, until
//! nothing is watched any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::address::Address;
use crate::error::{Execution, Status, StatusCode};

/// So long after its last refusal an address is not watched any more. What a second brings has doubled ten times by then.
const QUIET: Duration = Duration::from_secs(10);

/// The addresses whose calls were refused lately.
pub(super) struct Throttle {
    /// How many refused calls a second there may be to an address.
    refusals: f64,
    /// How many addresses are watched, so that the usual call needs no lock to learn that there are none.
    watched: AtomicUsize,
    credits: Mutex<HashMap<Address, Credit>>,
}

/// What may be sent to an address.
struct Credit {
    calls: f64,
    /// Until when it was counted.
    counted: Instant,
    refused: Instant,
}

impl Credit {
    /// How many new ones a second brings now.
    fn per_second(&self, refusals: f64, now: Instant) -> f64 {
        let quiet = now.saturating_duration_since(self.refused).as_secs();
        refusals * f64::from(1_u32 << quiet.min(QUIET.as_secs()))
    }

    fn count(&mut self, refusals: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        let per_second = self.per_second(refusals, now);
        self.calls = (self.calls + passed * per_second).min(per_second);
        self.counted = now;
    }
}

impl Throttle {
    pub(super) fn new(refusals: u32) -> Self {
        Self {
            refusals: f64::from(refusals),
            watched: AtomicUsize::new(0),
            credits: Mutex::default(),
        }
    }

    /// Whether a call may be sent to this address.
    ///
    /// # Errors
    /// The answer to one that may not.
    pub(super) fn admit(&self, address: &Address, now: Instant) -> Result<(), Status> {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let mut credits = self.credits.lock();
        credits.retain(|_, credit| now.saturating_duration_since(credit.refused) < QUIET);
        self.watched.store(credits.len(), Ordering::Relaxed);
        let Some(credit) = credits.get_mut(address) else {
            return Ok(());
        };
        credit.count(self.refusals, now);
        if credit.calls < 1.0 {
            let text = format!(
                "the servers of `{address}` have more to do than they can: so many calls were refused lately that this one was not sent; try later"
            );
            return Err(Status::new(StatusCode::ResourceExhausted, text).with_execution(Execution::DidNotRun));
        }
        credit.calls -= 1.0;
        Ok(())
    }

    /// A call to this address was refused for want of room.
    pub(super) fn refused(&self, address: &Address, now: Instant) {
        let mut credits = self.credits.lock();
        if let Some(credit) = credits.get_mut(address) {
            credit.count(self.refusals, now);
            credit.refused = now;
            return;
        }
        let credit = Credit {
            calls: self.refusals,
            counted: now,
            refused: now,
        };
        credits.insert(address.clone(), credit);
        self.watched.store(credits.len(), Ordering::Relaxed);
    }

    /// A call to this address ended without being refused: it was answered, failed otherwise, or was not sent after all.
    pub(super) fn ended(&self, address: &Address) {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(credit) = self.credits.lock().get_mut(address) {
            // No more than a second brings: that is cut off when the next call is counted.
            credit.calls += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSALS: u32 = 10;

    fn address(text: &str) -> Address {
        Address::new(text).unwrap()
    }

    /// How many of so many calls may be sent.
    fn sent(throttle: &Throttle, calls: usize) -> usize {
        let admitted = |_: &usize| throttle.admit(&address("a.busy"), Instant::now()).is_ok();
        (0..calls).filter(admitted).count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_limited_from_the_first_one_on() {
        let throttle = Throttle::new(REFUSALS);
        assert_eq!(sent(&throttle, 1000), 1000);
        throttle.refused(&address("a.busy"), Instant::now());
        assert_eq!(sent(&throttle, 1000), 10);
        let error = throttle.admit(&address("a.busy"), Instant::now()).unwrap_err();
        assert_eq!(
            (error.code, error.execution),
            (StatusCode::ResourceExhausted, Execution::DidNotRun)
        );
        assert!(throttle.admit(&address("a.calm"), Instant::now()).is_ok());
        // Each second brings as many, if some of them are refused.
        for _ in 0..20 {
            tokio::time::advance(Duration::from_millis(500)).await;
            throttle.refused(&address("a.busy"), Instant::now());
            assert_eq!(sent(&throttle, 1000), 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_refused_is_sent_as_often() {
        let throttle = Throttle::new(REFUSALS);
        throttle.refused(&address("a.busy"), Instant::now());
        assert_eq!(sent(&throttle, 10), 10);
        for _ in 0..1000 {
            throttle.ended(&address("a.busy"));
            throttle.ended(&address("a.calm"));
            assert_eq!(sent(&throttle, 2), 1);
        }
        // What was not used is not saved up.
        (0..1000).for_each(|_| throttle.ended(&address("a.busy")));
        assert_eq!(sent(&throttle, 1000), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn without_refusals_it_ends() {
        let throttle = Throttle::new(REFUSALS);
        throttle.refused(&address("a.busy"), Instant::now());
        assert_eq!(sent(&throttle, 1000), 10);
        for second in 1..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(sent(&throttle, 100_000), 10 << second, "{second}");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sent(&throttle, 100_000), 100_000);
        assert_eq!(throttle.watched.load(Ordering::Relaxed), 0);
        assert!(throttle.credits.lock().is_empty());
    }
}
