//! Publishing, flat out or at a rate.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{Collect, Collector, Fault, Kind, Lines, Outcome, Phase, say, say_json};

/// What is published: about 120 bytes as JSON, or more with `text`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The phase; 0 while warming up.
    pub phase: u32,
    /// Unique within the phase.
    pub seq: u64,
    /// When it was handed over for publishing, in ns since 1970 UTC.
    pub sent_ns: u64,
    /// Metres.
    pub range: f64,
    /// Degrees.
    pub angle: f64,
    /// Makes a message large.
    pub text: String,
}

/// Nanoseconds since 1970 UTC.
#[must_use]
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// What publishes. Clones share a connection.
pub trait Publisher: Clone + Send + Sync + 'static {
    /// Publishes a message; returns when the system says that it is published.
    fn publish(&self, reading: Reading) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Returns when everything that was published has left this process.
    fn flush(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        async { Ok(()) }
    }
}

const MEASURING: u8 = 1;
const OVER: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    seq: AtomicU64,
    sent: AtomicU64,
    errors: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Shared {
    fn reading(&self, phase: &Phase, text: &str) -> Reading {
        let measuring = self.state.load(Ordering::Relaxed) == MEASURING;
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        Reading {
            phase: if measuring { phase.number } else { 0 },
            seq,
            sent_ns: now_ns(),
            range: 1.25 + (seq % 100) as f64,
            angle: 14.5,
            text: text.to_owned(),
        }
    }

    async fn publish<P: Publisher>(&self, publisher: &P, reading: Reading) {
        let measured = reading.phase != 0;
        match publisher.publish(reading).await {
            Ok(()) if measured => {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(fault) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                self.error.lock().get_or_insert_with(|| format!("{fault:#}"));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Says `ready`, then carries out phases until the input ends. The outcome's `count` is of messages accepted.
///
/// # Errors
/// When an order can't be read or an outcome not written.
pub async fn drive_publisher<P: Publisher>(publisher: P) -> anyhow::Result<()> {
    drive(publisher, None).await
}

/// As [`drive_publisher`], with the subscriber in the same process; the outcome is the subscriber's.
///
/// # Errors
/// As [`drive_publisher`].
pub async fn drive_publisher_in_process<P: Publisher>(
    publisher: P,
    collector: &Collector,
) -> anyhow::Result<()> {
    drive(publisher, Some(collector)).await
}

async fn drive<P: Publisher>(publisher: P, collector: Option<&Collector>) -> anyhow::Result<()> {
    let mut lines = Lines::stdin();
    say("ready")?;
    while let Some(phase) = lines.next::<Phase>().await? {
        anyhow::ensure!(phase.kind == Kind::Pub, "this system publishes only");
        let mut outcome = carry_out(&publisher, phase).await?;
        if let Some(collector) = collector {
            let order = Collect {
                number: phase.number,
                sent: outcome.count,
            };
            outcome = collector.finish(order).await?.after(&outcome);
        }
        say_json(&outcome)?;
    }
    Ok(())
}

async fn carry_out<P: Publisher>(publisher: &P, phase: Phase) -> anyhow::Result<Outcome> {
    let shared = Arc::new(Shared::default());
    let text: Arc<str> = "x".repeat(phase.body).into();
    let mut workers = JoinSet::new();
    if phase.rate == 0 {
        for _ in 0..phase.in_flight {
            let (publisher, shared, text) = (publisher.clone(), Arc::clone(&shared), Arc::clone(&text));
            workers.spawn(async move {
                while shared.state.load(Ordering::Relaxed) != OVER {
                    let reading = shared.reading(&phase, &text);
                    shared.publish(&publisher, reading).await;
                    // Publishing in process may never wait; others want to run, too.
                    tokio::task::consume_budget().await;
                }
            });
        }
    } else {
        let (publisher, shared) = (publisher.clone(), Arc::clone(&shared));
        workers.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / phase.rate);
            while shared.state.load(Ordering::Relaxed) != OVER {
                ticks.tick().await;
                let reading = shared.reading(&phase, &text);
                shared.publish(&publisher, reading).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs_f64(phase.warmup)).await;
    say("start")?;
    shared.state.store(MEASURING, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(phase.seconds)).await;
    shared.state.store(OVER, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    publisher.flush().await?;
    Ok(Outcome {
        count: shared.sent.load(Ordering::Relaxed),
        errors: shared.errors.load(Ordering::Relaxed),
        seconds: started.elapsed().as_secs_f64(),
        error: shared.error.lock().take(),
        ..Outcome::default()
    })
}
