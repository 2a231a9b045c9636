//! The recovery run: how soon calls succeed again after a broker was killed and started, and how the clients' new
//! connections are spread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commlib::{ConnectionState, Node};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::brokers::BrokerKind;
use super::ledger_run::hold_against;
use super::load::{self, Books, Load};
use super::report::Report;
use super::runs::Kind;
use super::server::Settings;
use super::stage::Stage;
use crate::ledger::Promise;

/// Within which calls are to succeed again, at the 95th percentile.
const GOAL: Duration = Duration::from_secs(3);
/// For how long calls go on before a restart and after the port is open.
const AFTER: Duration = Duration::from_millis(4_500);
/// Within which some call has to succeed again, whatever else the machine does.
const BACK: Duration = Duration::from_secs(60);
/// The width of a bar of the histogram.
const BAR: u64 = 250;

/// What a recovery run does.
#[derive(Debug, Clone)]
pub struct RecoveryRun {
    /// On which broker.
    pub broker: BrokerKind,
    /// How many restarts.
    pub restarts: u32,
    /// How many clients.
    pub clients: u32,
    /// For how long the broker stays away, beyond the time that it takes to start.
    pub away: Duration,
    /// Whether a missed goal is a failure: on a machine that does other things at the same time it is none.
    pub strict: bool,
}

impl RecoveryRun {
    /// The full form.
    #[must_use]
    pub fn full(broker: BrokerKind) -> Self {
        Self {
            broker,
            restarts: 50,
            clients: 200,
            away: Duration::from_secs(1),
            strict: true,
        }
    }

    /// Runs it with servers of `program`.
    ///
    /// # Panics
    /// When a broker or a server does not start.
    pub async fn run(self, program: PathBuf) -> Report {
        let mut report = Report::new(format!(
            "{} restarts of {}, {} clients",
            self.restarts, self.broker, self.clients
        ));
        let stage = Stage::start(self.broker, program).await;
        let settings = Settings::new(&stage.url());
        for _ in 0..3 {
            stage.start_server(&settings).await;
        }
        let nodes = load::connect(&stage.url(), self.clients).await;
        let books = Arc::new(Books::default());
        let lag = books.watch_lag();
        let connects = watch_connects(&nodes, &books);
        let load = Load {
            clients: self.clients,
            rate: 500.0_f64.min(f64::from(self.clients) * 10.0),
            messages: 0.0,
            kept: 0.0,
            timeout: Duration::from_secs(2),
            publish_timeout: Duration::from_secs(2),
            hold: Duration::from_millis(1),
        };
        let over = CancellationToken::new();
        let mut opened = Vec::new();
        let restarts = async {
            for _ in 0..self.restarts {
                tokio::time::sleep(AFTER).await;
                stage.broker.kill().await;
                tokio::time::sleep(self.away).await;
                let port = stage.broker.port();
                let (at, ()) = tokio::join!(port_open(port, &books), stage.broker.restart());
                opened.push(at);
            }
            tokio::time::sleep(AFTER).await;
            // A machine that does other things takes its time, but not for ever.
            let last = opened.last().copied().unwrap_or_default();
            while !books.is_back(last) && books.now() < last + BACK {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            report.check(books.is_back(last), || {
                format!("no call succeeded within {BACK:?} after the last restart")
            });
            over.cancel();
        };
        tokio::join!(restarts, load::run(&load, &nodes, &books, &over));
        drop(lag);
        tokio::time::sleep(load.timeout).await;
        for node in nodes {
            let _ = node.shutdown(Duration::from_secs(5)).await;
        }
        stage
            .stop_servers(Duration::from_secs(20))
            .await
            .iter()
            .for_each(|text| report.fail(text));

        let calls = books.calls.lock().clone();
        let mut times: Vec<_> = opened
            .iter()
            .map(|at| calls.recovered(*at, *at + AFTER).map_or(AFTER, |back| back - *at))
            .collect();
        times.sort_unstable();
        let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
        let (median, p95, most) = (at(0.5), at(0.95), at(1.0));
        report.line(format!(
            "calls succeed as before, after the port's opening: median {median:.2?}, p95 {p95:.2?}, most {most:.2?} (goal: p95 {GOAL:?}; {AFTER:?} stands for more)"
        ));
        report.check(!self.strict || p95 <= GOAL, || {
            format!("p95 is {p95:?}, over {GOAL:?}")
        });
        report.line(histogram(&connects.lock(), &opened));
        hold_against(
            &mut report,
            "calls",
            calls,
            stage.ran(Kind::Call),
            Promise::AtMostOnce,
            if self.strict { 0.2 } else { 0.02 },
        );
        report
    }
}

/// When, in the time of the run, the port takes connections.
async fn port_open(port: u16, books: &Books) -> Duration {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    books.now()
}

/// Writes down when each node is connected.
fn watch_connects(nodes: &[Node], books: &Arc<Books>) -> Arc<Mutex<Vec<Duration>>> {
    let connects = Arc::new(Mutex::new(Vec::new()));
    let mut watching = JoinSet::new();
    for node in nodes {
        let (mut state, books, connects) = (node.state(), Arc::clone(books), Arc::clone(&connects));
        watching.spawn(async move {
            while state.changed().await.is_ok() {
                if matches!(*state.borrow_and_update(), ConnectionState::Connected { .. }) {
                    connects.lock().push(books.now());
                }
            }
        });
    }
    watching.detach_all();
    connects
}

/// How long after the port's opening the nodes came back, in bars of [`BAR`] ms.
fn histogram(connects: &[Duration], opened: &[Duration]) -> String {
    let mut bars: Vec<u64> = Vec::new();
    let mut total = 0;
    for at in connects {
        let Some(open) = opened.iter().rev().find(|open| **open <= *at) else {
            continue;
        };
        let bar = ((*at - *open).as_millis() as u64 / BAR) as usize;
        if bars.len() <= bar {
            bars.resize(bar + 1, 0);
        }
        bars[bar] += 1;
        total += 1;
    }
    let mut text = format!("{total} connections of clients, by time after the port's opening:");
    for (index, count) in bars.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (from, share) = (index as u64 * BAR, *count as f64 / total as f64);
        text += &format!(
            "\n{from:>6} ms {:>5.1} % {}",
            share * 100.0,
            "#".repeat((share * 60.0).round() as usize)
        );
    }
    text
}
