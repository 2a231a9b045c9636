//! The deadline run: calls whose reply comes just before or just after their deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commlib::Node;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::brokers::BrokerKind;
use super::contract::WorkClient;
use super::ledger_run::hold_against;
use super::load::{self, Books};
use super::report::Report;
use super::runs::Kind;
use super::server::Settings;
use super::stage::Stage;
use crate::ledger::Promise;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_millis(100);
/// How far from the deadline a handler ends at most.
const EDGE: u64 = 10_000;

/// What a deadline run does.
#[derive(Debug, Clone)]
pub struct DeadlineRun {
    /// On which broker.
    pub broker: BrokerKind,
    /// Draws when handlers end.
    pub seed: u64,
    /// How many calls are made.
    pub calls: u64,
    /// How many are in flight at once.
    pub lanes: u64,
}

impl DeadlineRun {
    /// The full form.
    #[must_use]
    pub fn full(broker: BrokerKind, seed: u64) -> Self {
        Self {
            broker,
            seed,
            calls: 100_000,
            lanes: 300,
        }
    }

    /// Runs it with a server of `program`.
    ///
    /// # Panics
    /// When a broker or a server does not start.
    pub async fn run(self, program: PathBuf) -> Report {
        let (broker, seed, calls, lanes) = (self.broker, self.seed, self.calls, self.lanes);
        let mut report = Report::new(format!(
            "{calls} replies at the deadline on {broker}, seed {seed}"
        ));
        let stage = Stage::start(broker, program).await;
        // No proxy: its own delays would be larger than the edge.
        let mut settings = Settings::new(&stage.broker.url());
        settings.concurrency = 512;
        stage.start_server(&settings).await;
        let nodes = load::connect(&settings.url, 4).await;
        let way = way(&nodes, lanes).await;
        report.line(format!("the way there and back takes {way:.1?}"));
        let books = Arc::new(Books::default());
        let lag = books.watch_lag();
        let mut calling = JoinSet::new();
        for lane in 0..lanes {
            let mut draw = StdRng::seed_from_u64(seed ^ lane);
            let client = WorkClient::new(&nodes[lane as usize % nodes.len()]);
            let books = Arc::clone(&books);
            let share = calls / lanes + u64::from(lane < calls % lanes);
            calling.spawn(async move {
                let edge = u64::try_from((TIMEOUT - way).as_micros()).unwrap_or(u64::MAX);
                for _ in 0..share {
                    let hold = draw.random_range(edge - EDGE..edge + EDGE);
                    books.call(&client, Duration::from_micros(hold), TIMEOUT).await;
                }
            });
        }
        calling.join_all().await;
        drop(lag);
        for node in nodes {
            let _ = node.shutdown(Duration::from_secs(5)).await;
        }
        let stopped = stage.stop_servers(Duration::from_secs(20)).await;
        stopped.iter().for_each(|text| report.fail(text));
        let ledger = books.calls.lock().clone();
        let seconds = books.now().as_secs_f64();
        report.line(format!("{:.0} calls per second", calls as f64 / seconds));
        let ran = stage
            .ran(Kind::Call)
            .into_iter()
            .filter(|id| *id != u64::MAX)
            .collect();
        hold_against(&mut report, "calls", ledger, ran, Promise::AtMostOnce, 0.01);
        report
    }
}

/// How long a call takes beside its handler, with as many in flight as there will be.
async fn way(nodes: &[Node], lanes: u64) -> Duration {
    let mut calling = JoinSet::new();
    for lane in 0..lanes {
        let client = WorkClient::new(&nodes[lane as usize % nodes.len()]);
        calling.spawn(async move {
            let hold = u64::try_from(TIMEOUT.as_micros()).unwrap_or(u64::MAX);
            let mut took = Duration::MAX;
            // The first call of a node opens its inbox; the last is as the others will be.
            for _ in 0..3 {
                let begun = Instant::now();
                let done = client
                    .work(u64::MAX, 0, hold)
                    .timeout(Duration::from_secs(10))
                    .await;
                done.unwrap_or_else(|error| panic!("a call failed without a fault: {error}"));
                took = begun.elapsed();
            }
            took
        });
    }
    let mut took = calling.join_all().await;
    took.sort_unstable();
    took[took.len() / 2].saturating_sub(TIMEOUT).min(TIMEOUT / 2)
}
