//! What the bench and the two processes of a measured system say to each other, so that a system can be written in
//! any language.
//!
//! A system is a server (or subscriber) process and a client (or publisher) process; one in-process system is a
//! client alone. Both print `ready` when they can work, read one JSON line per order on standard input, print one
//! JSON line per answer on standard output, and end when their input ends.
//!
//! - A client gets a [`Phase`]. It prints `start` when the warm-up is over, so that the bench can look at CPU clocks,
//!   and then an [`Outcome`].
//! - A subscriber counts what it gets by the number of the phase in each message. It gets a [`Collect`] when the
//!   publisher has finished, waits for what is still on its way, and answers an [`Outcome`].

mod collect;
mod histogram;
mod lines;
mod publish;
mod rpc;

use serde::{Deserialize, Serialize};

pub use collect::{Collected, Collector, answer_collects};
pub use histogram::Latencies;
pub use lines::{Lines, say, say_json};
pub use publish::{Publisher, Reading, drive_publisher, drive_publisher_in_process, now_ns};
pub use rpc::{Fault, RpcClient, RpcWorker, drive_rpc};

/// What a phase does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Calls in a closed loop: `in_flight` callers, each with one call at a time.
    Rpc,
    /// Messages: `in_flight` at a time if `rate` is 0, else so many a second.
    Pub,
}

/// An order to a client or a publisher.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// Counts up from 1 within a process; messages carry it.
    pub number: u32,
    /// What to do.
    pub kind: Kind,
    /// How many calls or messages at once.
    pub in_flight: usize,
    /// 0: `add(i, i)` or a reading of about 120 bytes. Else a text of so many bytes, echoed or published.
    pub body: usize,
    /// Messages per second; 0 is as many as possible.
    pub rate: u32,
    /// How long to measure.
    pub seconds: f64,
    /// How long to work before that.
    pub warmup: f64,
}

/// An order to a subscriber: the publisher has sent so many messages in this phase, the warm-up not counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Collect {
    /// The phase.
    pub number: u32,
    /// Messages of the phase that were accepted.
    pub sent: u64,
}

/// What came of a phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// Calls answered rightly, or messages sent or received.
    pub count: u64,
    /// Calls or messages that failed, those of the warm-up included.
    pub errors: u64,
    /// Replies that were not for the call that got them; messages that came twice.
    pub misdelivered: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The median of the latencies, in µs.
    pub p50: f64,
    /// The 99th percentile, in µs.
    pub p99: f64,
    /// The 99.9th percentile, in µs.
    pub p999: f64,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

impl Outcome {
    /// What a subscriber got, with what went wrong at the publisher.
    #[must_use]
    pub fn after(mut self, publisher: &Self) -> Self {
        self.errors += publisher.errors;
        self.error = publisher.error.clone().or(self.error);
        self
    }
}
