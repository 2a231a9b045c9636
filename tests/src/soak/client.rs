//! A client process of a run: calls of which some are dropped and some time out.

use std::future::IntoFuture;
use std::time::Duration;

use commlib::{CallError, NoError, Node};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::contract::{WorkClient, value_of};

/// Calls in flight at once.
const LANES: u64 = 32;
/// The share of calls that are dropped, and that of calls which time out.
const DROPPED: f64 = 0.10;
const TIMED_OUT: f64 = 0.05;

/// What became of calls.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    good: u64,
    dropped: u64,
    timed_out: u64,
    failed: u64,
}

/// Makes calls with numbers from `first` on. Prints `half` after so many of them, and `done` at their end, each with the
/// counts; then waits for SIGTERM.
///
/// # Errors
/// In words.
pub async fn call(url: &str, first: u64, calls: u64) -> Result<(), String> {
    let terminated = commlib::signal::terminated().map_err(|error| error.to_string())?;
    let node = Node::connect(url).await.map_err(|error| error.to_string())?;
    let mut counts = Counts::default();
    let mut made = 0;
    for (word, until) in [("half", calls / 2), ("done", calls)] {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let client = WorkClient::new(&node);
            let ids = (first + made..first + until).filter(move |id| id % LANES == lane);
            lanes.spawn(calls_of(client, ids));
        }
        for part in lanes.join_all().await {
            counts.good += part.good;
            counts.dropped += part.dropped;
            counts.timed_out += part.timed_out;
            counts.failed += part.failed;
        }
        made = until;
        println!("{word} {counts:?}");
    }
    terminated.await;
    node.shutdown(Duration::from_secs(5))
        .await
        .map_err(|error| error.to_string())
}

async fn calls_of(client: WorkClient, ids: impl Iterator<Item = u64>) -> Counts {
    let mut counts = Counts::default();
    for id in ids {
        let mut draw = StdRng::seed_from_u64(id);
        let kind: f64 = draw.random();
        // Long enough that a call which is to be dropped, or to time out, is.
        let hold = if kind < DROPPED + TIMED_OUT { 30_000 } else { 0 };
        let call = client.work(id, value_of(id), hold);
        let result = if kind < DROPPED {
            let patience = Duration::from_micros(draw.random_range(0..10_000));
            let call = call.timeout(Duration::from_secs(10)).into_future();
            match tokio::time::timeout(patience, call).await {
                Ok(result) => result,
                Err(_) => {
                    counts.dropped += 1;
                    continue;
                }
            }
        } else if kind < DROPPED + TIMED_OUT {
            call.timeout(Duration::from_millis(10)).await
        } else {
            call.timeout(Duration::from_secs(10)).await
        };
        count(&mut counts, id, result);
    }
    counts
}

fn count(counts: &mut Counts, id: u64, result: Result<(u64, u64), CallError<NoError>>) {
    match result {
        Ok(reply) if reply == (id, value_of(id)) => counts.good += 1,
        Err(error) if error.is_timeout() => counts.timed_out += 1,
        Ok(_) | Err(_) => counts.failed += 1,
    }
}
