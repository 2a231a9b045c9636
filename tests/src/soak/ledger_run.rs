//! The ledger run: many clients, three servers, and a fault every few seconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::brokers::BrokerKind;
use super::faults::{Fault, Pace, Step, schedule};
use super::load::{self, Books, Load};
use super::report::Report;
use super::runs::Kind;
use super::server::Settings;
use super::stage::Stage;
use crate::ledger::{Ledger, Promise};

/// How many servers there are.
const SERVERS: usize = 3;
/// How long accepted messages may take to reach a handler once all faults are over: a group takes over what a dead
/// member had after some time.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a server may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// For how long calls go on after the last fault: at least so long, until everything works again, and at most so long,
/// which is far longer than it takes to see that a connection is dead.
const QUIET: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(60));
/// What a ledger run does.
#[derive(Debug, Clone)]
pub struct LedgerRun {
    /// On which broker.
    pub broker: BrokerKind,
    /// Draws the schedule.
    pub seed: u64,
    /// For how long.
    pub time: Duration,
    /// What is called.
    pub load: Load,
    /// Which faults.
    pub faults: Vec<Fault>,
    /// When.
    pub pace: Pace,
    /// The share of calls that is to succeed, faults and all: a run in which nothing works keeps every promise.
    pub least: f64,
}

impl LedgerRun {
    /// The full form.
    #[must_use]
    pub fn full(broker: BrokerKind, seed: u64) -> Self {
        Self {
            broker,
            seed,
            time: Duration::from_secs(60),
            load: Load {
                clients: 200,
                rate: 500.0,
                messages: 50.0,
                kept: 50.0,
                timeout: Duration::from_secs(2),
                publish_timeout: Duration::from_secs(3),
                hold: Duration::from_millis(1),
            },
            faults: Fault::ALL.to_vec(),
            pace: Pace::FULL,
            least: 0.3,
        }
    }

    /// Runs it with servers of `program`.
    ///
    /// # Panics
    /// When a broker or a server does not start.
    pub async fn run(self, program: PathBuf) -> Report {
        let mut report = Report::new(format!("ledger run on {}, seed {}", self.broker, self.seed));
        let steps = schedule(self.seed, &self.faults, &self.pace, self.time);
        let listed: Vec<_> = steps.iter().map(Step::to_string).collect();
        // Also when the run panics or is killed.
        println!("{} seed {}: {}", self.broker, self.seed, listed.join(", "));

        let stage = Stage::start(self.broker, program).await;
        let mut settings = Settings::new(&stage.url());
        settings.durable = self.load.messages > 0.0 || self.load.kept > 0.0;
        for _ in 0..SERVERS {
            stage.start_server(&settings).await;
        }
        let nodes = load::connect(&stage.url(), self.load.clients).await;
        let books = Arc::new(Books::default());
        let lag = books.watch_lag();
        let times = Mutex::new(Vec::new());
        let over = CancellationToken::new();
        let faults = async {
            for step in &steps {
                tokio::time::sleep_until(books.begun + step.at).await;
                let began = books.now();
                step.apply(&stage, &self.pace, &settings).await;
                times.lock().push((*step, began, books.now()));
            }
            // Faults may have taken longer than was planned for them.
            let last = books.now();
            let (least, most) = (self.time.max(last + QUIET.0), last + QUIET.1);
            while books.now() < least || (books.now() < most && !books.is_back(last)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            over.cancel();
        };
        tokio::join!(faults, load::run(&self.load, &nodes, &books, &over));
        drop(lag);

        // What may still come must come while servers run: an execution after the error would be missed otherwise.
        tokio::time::sleep(self.load.timeout).await;
        let begun = books.now();
        loop {
            let missing = [(&books.messages, Kind::Message), (&books.kept, Kind::Kept)]
                .into_iter()
                .any(|(ledger, kind)| {
                    let mut ledger = ledger.lock().clone();
                    stage.ran(kind).into_iter().for_each(|id| ledger.ran(id));
                    !ledger.missing().is_empty()
                });
            if !missing || books.now() > begun + SETTLED {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for node in nodes {
            // With the broker there, a client ends at once.
            if let Err(error) = node.shutdown(Duration::from_secs(5)).await {
                report.line(format!("a client did not end in order: {error}"));
            }
        }
        stage
            .stop_servers(STOP_LIMIT)
            .await
            .iter()
            .for_each(|text| report.fail(text));

        let (calls, messages) = (books.calls.lock().clone(), books.messages.lock().clone());
        let kept = books.kept.lock().clone();
        let times = times.into_inner();
        for (index, (step, began, ended)) in times.iter().enumerate() {
            let next = times.get(index + 1).map_or(Duration::MAX, |(_, began, _)| *began);
            let back = recovery(&calls, *ended, next);
            report.line(format!("{step}: {began:.1?} to {ended:.1?}, {back}"));
        }
        if let Some((step, _, ended)) = times.last() {
            report.check(books.is_back(*ended), || {
                format!("not everything came back after the last fault, {step}")
            });
        }
        report.line(format!(
            "tenths of calls that succeeded, by second: {}",
            timeline(&calls)
        ));
        hold_against(
            &mut report,
            "calls",
            calls,
            stage.ran(Kind::Call),
            Promise::AtMostOnce,
            self.least,
        );
        if self.load.messages > 0.0 {
            let ran = stage.ran(Kind::Message);
            hold_against(
                &mut report,
                "durable topic",
                messages,
                ran,
                Promise::AtLeastOnce,
                self.least,
            );
        }
        if self.load.kept > 0.0 {
            let unlike = std::mem::take(&mut *books.unlike.lock());
            report.check(unlike.is_empty(), || {
                format!("durable calls: other answers to the same keys: {unlike:?}")
            });
            // A key runs again where its request is delivered again, never for another request; on RabbitMQ only the
            // server that served it knows that.
            let again = repeated(stage.ran(Kind::KeptFirst));
            report.line(format!(
                "durable calls that a second request with their key ran again: {}",
                again.len()
            ));
            report.check(again.is_empty() || self.broker == BrokerKind::Amqp, || {
                format!("durable calls: keys that ran for two requests: {again:?}")
            });
            let (ran, promise) = (stage.ran(Kind::Kept), Promise::AtLeastOnce);
            hold_against(&mut report, "durable calls", kept, ran, promise, self.least);
        }
        report
    }
}

/// The numbers that are there more than once.
fn repeated(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    let mut again: Vec<u64> = ids
        .windows(2)
        .filter(|two| two[0] == two[1])
        .map(|two| two[0])
        .collect();
    again.dedup();
    again
}

/// Adds what handlers ran to a ledger and judges it. A run in which hardly anything works keeps every promise: at least
/// the share `least` is to succeed.
pub(super) fn hold_against(
    report: &mut Report,
    what: &str,
    mut ledger: Ledger,
    ran: Vec<u64>,
    promise: Promise,
    least: f64,
) {
    ran.into_iter().for_each(|id| ledger.ran(id));
    let verdict = ledger.check(promise);
    report.line(format!("{what}, {verdict}"));
    report.check(verdict.is_kept(), || format!("{what}: the promise is broken"));
    let share = verdict.succeeded() as f64 / ledger.len().max(1) as f64;
    report.check(share >= least, || {
        format!("{what}: only {:.0} % succeeded", share * 100.0)
    });
}

/// For each second the tenths of its calls that succeeded.
fn timeline(calls: &Ledger) -> String {
    let second = Duration::from_secs(1);
    let last = calls.successes().map(|(at, _)| at).max().unwrap_or_default();
    let starts = (0..)
        .map(|number| second * number)
        .take_while(|from| *from < last);
    let tenths = starts.map(|from| (calls.share(from, from + second, second * 60) * 10.0) as u32);
    tenths
        .map(|tenths| char::from_digit(tenths, 11).unwrap_or('?'))
        .collect()
}

/// How long after the end of a fault calls succeed as before.
fn recovery(calls: &Ledger, ended: Duration, next: Duration) -> String {
    match calls.recovered(ended, next) {
        Some(at) => format!("back after {:?}", at - ended),
        None => "not back before the next fault".to_owned(),
    }
}
