//! Receiving: what came, how late, and what did not come.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{Collect, Latencies, Lines, Outcome, Reading, now_ns, say, say_json};

/// A subscriber that gets nothing for so long has got everything that will come.
const SILENCE: Duration = Duration::from_millis(700);
const LONGEST: Duration = Duration::from_secs(20);

/// What came of one phase.
#[derive(Debug)]
pub struct Collected {
    count: u64,
    first_ns: u64,
    last_ns: u64,
    latencies: Latencies,
}

/// Counts readings by phase. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    phases: Arc<Mutex<HashMap<u32, Collected>>>,
    fault: Arc<Mutex<Option<String>>>,
    /// Messages of all phases and warm-ups: while they come, a phase is not over.
    seen: Arc<AtomicU64>,
}

impl Collector {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a message by what its [`Reading`] says. Those of a warm-up are not counted.
    pub fn take(&self, phase: u32, sent_ns: u64) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if phase == 0 {
            return;
        }
        let now = now_ns();
        let mut phases = self.phases.lock();
        let collected = match phases.entry(phase) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let Ok(latencies) = Latencies::new() else { return };
                entry.insert(Collected {
                    count: 0,
                    first_ns: now,
                    last_ns: now,
                    latencies,
                })
            }
        };
        collected.count += 1;
        collected.last_ns = now;
        collected.latencies.record(0, now.saturating_sub(sent_ns));
    }

    /// Decodes a [`Reading`] and counts it.
    pub fn take_json(&self, message: &[u8]) {
        match serde_json::from_slice::<Reading>(message) {
            Ok(reading) => self.take(reading.phase, reading.sent_ns),
            Err(error) => self.fault(&error.to_string()),
        }
    }

    /// Notes that something went wrong.
    pub fn fault(&self, text: &str) {
        self.fault.lock().get_or_insert_with(|| text.to_owned());
    }

    fn count(&self, number: u32) -> u64 {
        self.phases
            .lock()
            .get(&number)
            .map_or(0, |collected| collected.count)
    }

    /// Waits until everything of a phase is here or nothing more comes, and sums up. The time is from the first
    /// message's arrival to the last one's; what was sent and did not come is in `errors`.
    ///
    /// # Errors
    /// None in practice, see [`Latencies::summarise`].
    pub async fn finish(&self, order: Collect) -> anyhow::Result<Outcome> {
        let begin = Instant::now();
        let mut seen = self.seen.load(Ordering::Relaxed);
        let mut silent_since = Instant::now();
        while self.count(order.number) < order.sent
            && silent_since.elapsed() < SILENCE
            && begin.elapsed() < LONGEST
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.seen.load(Ordering::Relaxed);
            if now != seen {
                (seen, silent_since) = (now, Instant::now());
            }
        }
        let mut outcome = Outcome::default();
        if let Some(collected) = self.phases.lock().remove(&order.number) {
            outcome.count = collected.count;
            outcome.seconds = collected.last_ns.saturating_sub(collected.first_ns) as f64 / 1e9;
            collected.latencies.summarise(&mut outcome)?;
        }
        outcome.errors = order.sent.saturating_sub(outcome.count);
        outcome.misdelivered = outcome.count.saturating_sub(order.sent);
        outcome.error = self.fault.lock().take();
        Ok(outcome)
    }
}

/// Says `ready`, then answers [`Collect`]s until the input ends.
///
/// # Errors
/// When an order can't be read or an outcome not written.
pub async fn answer_collects(collector: &Collector) -> anyhow::Result<()> {
    let mut lines = Lines::stdin();
    say("ready")?;
    while let Some(order) = lines.next::<Collect>().await? {
        say_json(&collector.finish(order).await?)?;
    }
    Ok(())
}
