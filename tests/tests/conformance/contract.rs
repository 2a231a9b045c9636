//! The contract that the suite serves and calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sum {
    pub c: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "type")]
pub enum DivError {
    #[error("division by zero")]
    ByZero,
    #[error("{dividend} is too large")]
    TooLarge { dividend: i64 },
}

#[commlib::rpc_service(name = "probe")]
pub trait Probe {
    #[rpc(idempotent)]
    async fn add(&self, a: i64, b: i64) -> Sum;
    async fn div(&self, a: i64, b: i64) -> Result<i64, DivError>;
    async fn echo(&self, ctx: &RequestContext, text: String) -> HashMap<String, String>;
    /// Runs until the test opens the gate, or the caller gives up and `stubborn` is not set.
    async fn wait(&self, ctx: &RequestContext, stubborn: bool) -> bool;
    async fn time_left(&self, ctx: &RequestContext) -> u64;
    async fn panic(&self);
    async fn bytes(&self, size: usize) -> String;
    async fn length(&self, text: String) -> usize;
    /// Arrays within each other.
    async fn nested(&self, depth: usize) -> serde_json::Value;
    /// Calls itself through the broker, `depth` times.
    async fn relay(&self, ctx: &RequestContext, depth: u32) -> Result<u64, RelayError>;
    #[rpc(oneway)]
    async fn note(&self, text: String);
}

/// A value of so many arrays within each other.
pub fn nested(depth: usize) -> serde_json::Value {
    (0..depth).fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner]))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{0}")]
pub struct RelayError(pub String);

/// What the handlers did.
#[derive(Default)]
pub struct Seen {
    pub runs: AtomicU64,
    pub waiting: AtomicU64,
    pub canceled: AtomicU64,
    pub notes: Mutex<Vec<String>>,
    pub gate: Notify,
}

impl Seen {
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }
    pub fn canceled(&self) -> u64 {
        self.canceled.load(Ordering::SeqCst)
    }
    /// Lets every handler that waits now go on.
    pub fn open(&self) {
        self.gate.notify_waiters();
    }
}

/// The implementation.
#[derive(Default)]
pub struct Prober {
    pub seen: Arc<Seen>,
}

impl Probe for Prober {
    async fn add(&self, a: i64, b: i64) -> Sum {
        self.seen.runs.fetch_add(1, Ordering::SeqCst);
        Sum { c: a + b }
    }

    async fn div(&self, a: i64, b: i64) -> Result<i64, DivError> {
        if a > 1000 {
            return Err(DivError::TooLarge { dividend: a });
        }
        a.checked_div(b).ok_or(DivError::ByZero)
    }

    async fn echo(&self, ctx: &RequestContext, text: String) -> HashMap<String, String> {
        let mut all: HashMap<_, _> = ctx
            .headers()
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        all.insert("text".to_owned(), text);
        all.insert("address".to_owned(), ctx.address().to_string());
        all
    }

    async fn wait(&self, ctx: &RequestContext, stubborn: bool) -> bool {
        let open = self.seen.gate.notified();
        tokio::pin!(open);
        open.as_mut().enable();
        self.seen.waiting.fetch_add(1, Ordering::SeqCst);
        tokio::select! {
            () = open => true,
            () = ctx.canceled(), if !stubborn => {
                self.seen.canceled.fetch_add(1, Ordering::SeqCst);
                false
            }
        }
    }

    async fn time_left(&self, ctx: &RequestContext) -> u64 {
        ctx.time_left().as_millis().try_into().unwrap_or(u64::MAX)
    }

    async fn panic(&self) {
        panic!("secret text of a panic");
    }

    async fn bytes(&self, size: usize) -> String {
        "x".repeat(size)
    }

    async fn length(&self, text: String) -> usize {
        text.len()
    }

    async fn nested(&self, depth: usize) -> serde_json::Value {
        nested(depth)
    }

    async fn relay(&self, ctx: &RequestContext, depth: u32) -> Result<u64, RelayError> {
        if depth == 0 {
            return Ok(ctx.time_left().as_millis().try_into().unwrap_or(u64::MAX));
        }
        // Another service, so that no limit of this one is in the way.
        PongClient::new(ctx.node())
            .pong(depth - 1)
            .await
            .map_err(|error| RelayError(error.to_string()))
    }

    async fn note(&self, text: String) {
        self.seen.notes.lock().push(text);
    }
}

#[commlib::rpc_service(name = "pong")]
pub trait Pong {
    async fn pong(&self, ctx: &RequestContext, depth: u32) -> Result<u64, RelayError>;
}

/// Calls back into the probe, with a permit of its own for each level.
pub struct Ponger {
    pub permits: Arc<Semaphore>,
}

impl Pong for Ponger {
    async fn pong(&self, ctx: &RequestContext, depth: u32) -> Result<u64, RelayError> {
        if depth == 0 {
            return Ok(ctx.time_left().as_millis().try_into().unwrap_or(u64::MAX));
        }
        let _permit = self.permits.acquire().await;
        ProbeClient::new(ctx.node())
            .relay(depth - 1)
            .await
            .map_err(|error| RelayError(error.to_string()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Front,
    Rear,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    pub seq: u64,
}

#[commlib::topic(prefix = "sensors")]
pub trait Sensors {
    #[topic("sonar.{side}")]
    async fn sonar(&self, ctx: &MessageContext, side: Side, reading: Reading);
    #[topic("room.{room}.{side}.level")]
    async fn level(&self, side: Side, room: u16, reading: Reading);
    async fn bumper(&self, hit: Reading);
}

/// Collects what the handlers got.
#[derive(Default, Clone)]
pub struct Collector {
    pub readings: Arc<Mutex<Vec<(Side, u64)>>>,
    pub traces: Arc<Mutex<Vec<Option<String>>>>,
    pub delay: Duration,
}

impl Sensors for Collector {
    async fn sonar(&self, ctx: &MessageContext, side: Side, reading: Reading) {
        tokio::time::sleep(self.delay).await;
        self.traces
            .lock()
            .push(ctx.header("traceparent").map(str::to_owned));
        self.readings.lock().push((side, reading.seq));
    }
    async fn level(&self, side: Side, room: u16, reading: Reading) {
        self.readings.lock().push((side, reading.seq + u64::from(room)));
    }
    async fn bumper(&self, hit: Reading) {
        self.readings.lock().push((Side::Front, hit.seq));
    }
}
