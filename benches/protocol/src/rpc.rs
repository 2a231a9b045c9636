//! Calls in a closed loop, every reply checked.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{Kind, Latencies, Lines, Outcome, Phase, say, say_json};

/// How long calls may still take after the end of a phase; a call that is not answered by then is an error.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a call has no result.
pub type Fault = anyhow::Error;

/// One side of a system: what makes callers.
pub trait RpcClient: Send + Sync + 'static {
    /// One caller, with one call at a time.
    type Worker: RpcWorker;

    /// A caller. Systems that can't have two calls on one connection open one here.
    fn worker(&self) -> impl Future<Output = Result<Self::Worker, Fault>> + Send;
}

/// One caller.
pub trait RpcWorker: Send + 'static {
    /// Calls `add` with `{"a":a,"b":b}` and returns the `c` of the reply.
    fn add(&mut self, a: i64, b: i64) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Calls `echo` with a text and returns the text of the reply.
    fn echo(&mut self, text: &str) -> impl Future<Output = Result<String, Fault>> + Send;
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    count: AtomicU64,
    errors: AtomicU64,
    misdelivered: AtomicU64,
    latencies: Latencies,
    error: Mutex<Option<String>>,
}

impl Shared {
    fn failed(&self, fault: &Fault) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.error.lock().get_or_insert_with(|| format!("{fault:#}"));
    }
}

/// Says `ready`, then carries out phases until the input ends.
///
/// # Errors
/// When an order can't be read or an outcome not written.
pub async fn drive_rpc<C: RpcClient>(client: C) -> anyhow::Result<()> {
    let mut lines = Lines::stdin();
    say("ready")?;
    while let Some(phase) = lines.next::<Phase>().await? {
        anyhow::ensure!(phase.kind == Kind::Rpc, "this system does RPC only");
        say_json(&carry_out(&client, phase).await?)?;
    }
    Ok(())
}

async fn carry_out<C: RpcClient>(client: &C, phase: Phase) -> anyhow::Result<Outcome> {
    let shared = Arc::new(Shared {
        state: AtomicU8::new(WARMING),
        count: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        misdelivered: AtomicU64::new(0),
        latencies: Latencies::new()?,
        error: Mutex::new(None),
    });
    let mut workers = JoinSet::new();
    for number in 0..phase.in_flight {
        match client.worker().await {
            Ok(worker) => {
                workers.spawn(work(worker, number, phase, Arc::clone(&shared)));
            }
            Err(fault) => shared.failed(&fault),
        }
    }
    tokio::time::sleep(Duration::from_secs_f64(phase.warmup)).await;
    say("start")?;
    shared.state.store(MEASURING, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(phase.seconds)).await;
    shared.state.store(OVER, Ordering::Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    let mut outcome = Outcome {
        count: shared.count.load(Ordering::Relaxed),
        seconds,
        ..Outcome::default()
    };
    shared.latencies.summarise(&mut outcome)?;
    let all = async { while workers.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        let left = workers.len() as u64;
        workers.abort_all();
        shared.errors.fetch_add(left, Ordering::Relaxed);
        shared
            .error
            .lock()
            .get_or_insert_with(|| format!("{left} calls were never answered"));
    }
    outcome.errors = shared.errors.load(Ordering::Relaxed);
    outcome.misdelivered = shared.misdelivered.load(Ordering::Relaxed);
    outcome.error = shared.error.lock().take();
    Ok(outcome)
}

async fn work<W: RpcWorker>(mut worker: W, number: usize, phase: Phase, shared: Arc<Shared>) {
    let mut text = "x".repeat(phase.body);
    // No two calls in flight have the same argument, so a reply to another call is seen.
    let mut argument = (number as i64) << 32;
    loop {
        argument += 1;
        let started = Instant::now();
        let right = if phase.body == 0 {
            worker.add(argument, argument).await.map(|c| c == 2 * argument)
        } else {
            text.replace_range(..16, &format!("{argument:016x}"));
            worker.echo(&text).await.map(|reply| reply == text)
        };
        let state = shared.state.load(Ordering::Relaxed);
        match right {
            Ok(true) if state == MEASURING => {
                shared.count.fetch_add(1, Ordering::Relaxed);
                shared
                    .latencies
                    .record(number, started.elapsed().as_nanos() as u64);
            }
            Ok(true) => {}
            Ok(false) => {
                shared.misdelivered.fetch_add(1, Ordering::Relaxed);
            }
            Err(fault) => {
                shared.failed(&fault);
                // A system that refuses at once would else be asked a million times.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if state == OVER {
            return;
        }
    }
}
