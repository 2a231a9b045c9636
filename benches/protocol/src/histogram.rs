//! Latencies, gathered by many tasks at once.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::Outcome;

/// More than the worker threads that any system here uses, so that they seldom meet.
const SHARDS: usize = 8;
const LONGEST_NS: u64 = 60_000_000_000;

/// A histogram of nanoseconds with three digits.
#[derive(Debug)]
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u32>>>,
}

impl Latencies {
    /// An empty one.
    ///
    /// # Errors
    /// None in practice: the bounds are constants.
    pub fn new() -> anyhow::Result<Self> {
        let shards = (0..SHARDS)
            .map(|_| Ok(Mutex::new(Histogram::new_with_bounds(1, LONGEST_NS, 3)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { shards })
    }

    /// Adds a latency; `worker` only spreads the load.
    pub fn record(&self, worker: usize, nanoseconds: u64) {
        self.shards[worker % SHARDS]
            .lock()
            .saturating_record(nanoseconds.max(1));
    }

    /// Writes the percentiles into an outcome, in µs.
    ///
    /// # Errors
    /// None in practice: all parts have the same bounds.
    pub fn summarise(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut all = self.shards[0].lock().clone();
        for shard in &self.shards[1..] {
            all.add(&*shard.lock())?;
        }
        let at = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1_000.0;
        (outcome.p50, outcome.p99, outcome.p999) = (at(0.5), at(0.99), at(0.999));
        Ok(())
    }
}
