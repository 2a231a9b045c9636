//! The drain run: servers that are told to end while hundreds of calls are on their way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commlib::Node;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::brokers::BrokerKind;
use super::contract::WorkClient;
use super::load::Books;
use super::report::Report;
use super::runs::Kind;
use super::server::Settings;
use super::stage::Stage;
use crate::ledger::Promise;
use crate::{Child, Signal, eventually};

/// Calls on their way when the signal comes.
const CALLS: u32 = 500;
/// More than a call needs, and less than forever.
const TIMEOUT: Duration = Duration::from_secs(8);
/// How much longer than its drain time a process may take to end: 1.5 s for the library, the rest for the machine.
const SLACK: Duration = Duration::from_secs(3);
/// How long a test waits for what must happen.
const SOON: Duration = Duration::from_secs(30);

/// What a drain run does.
#[derive(Debug, Clone)]
pub struct DrainRun {
    /// On which broker.
    pub broker: BrokerKind,
}

/// One server, its calls and what was seen.
struct Scene<'a> {
    stage: &'a Stage,
    books: Arc<Books>,
    calling: JoinSet<()>,
    node: Node,
}

impl<'a> Scene<'a> {
    /// Starts a server, makes the calls, and waits until as many run as the server takes.
    async fn start(stage: &'a Stage, settings: impl FnOnce(&mut Settings), hold: Duration) -> Self {
        let mut usual = Settings::new(&stage.url());
        settings(&mut usual);
        stage.start_server(&usual).await;
        let node = Node::connect(&stage.url()).await;
        let node = node.unwrap_or_else(|error| panic!("could not connect: {error}"));
        let books = Arc::new(Books::default());
        let mut calling = JoinSet::new();
        for _ in 0..CALLS {
            let (books, client) = (Arc::clone(&books), WorkClient::new(&node));
            calling.spawn(async move { books.call(&client, hold, TIMEOUT).await });
        }
        let running = usual.concurrency.min(CALLS) as usize;
        eventually(SOON, async || match stage.ran(Kind::Call).len() {
            ran if ran >= running => Ok(()),
            ran => Err(ran),
        })
        .await;
        Self {
            stage,
            books,
            calling,
            node,
        }
    }

    /// Sends SIGTERM to the oldest server and returns how it ended and how long that took.
    async fn terminate(&self, limit: Duration) -> (Child, bool, Duration) {
        let server = self.stage.take_server(0);
        server.signal(Signal::SIGTERM);
        let begun = Instant::now();
        let status = server.wait(limit).await;
        (server, status.success(), begun.elapsed())
    }

    /// Waits for the calls and holds them against the promise.
    async fn end(mut self, what: &str, report: &mut Report, all: bool) {
        let lag = self.books.watch_lag();
        while self.calling.join_next().await.is_some() {}
        drop(lag);
        let mut calls = self.books.calls.lock().clone();
        self.stage
            .ran(Kind::Call)
            .into_iter()
            .for_each(|id| calls.ran(id));
        let verdict = calls.check(Promise::AtMostOnce);
        report.line(format!("{what}, {verdict}"));
        report.check(verdict.is_kept(), || format!("{what}: the promise is broken"));
        let succeeded = verdict.succeeded();
        report.check(!all || succeeded == CALLS as usize, || {
            format!("{what}: {succeeded} of {CALLS} were answered")
        });
        let _ = self.node.shutdown(Duration::from_secs(5)).await;
        self.stage
            .stop_servers(SOON)
            .await
            .iter()
            .for_each(|text| report.fail(text));
        self.stage.runs.clear();
    }
}

impl DrainRun {
    /// Runs it with servers of `program`.
    ///
    /// # Panics
    /// When a broker or a server does not start or does not end.
    pub async fn run(self, program: PathBuf) -> Report {
        let mut report = Report::new(format!("drain on {}", self.broker));
        let stage = Stage::start(self.broker, program).await;
        finishes(&stage, &mut report).await;
        gives_back(&stage, &mut report).await;
        ends_in_time(&stage, &mut report).await;
        ends_at_once(&stage, &mut report).await;
        report
    }
}

/// A server that runs all of them answers all of them.
async fn finishes(stage: &Stage, report: &mut Report) {
    let what = "all running";
    let all = |settings: &mut Settings| settings.concurrency = CALLS;
    let hold = Duration::from_millis(700);
    let scene = Scene::start(stage, all, hold).await;
    let (server, good, took) = scene.terminate(SOON).await;
    report.line(format!("{what}: the server ended after {took:.0?}"));
    report.check(good, || {
        format!("{what}: the server failed: {:?}", server.stderr())
    });
    scene.end(what, report, true).await;
}

/// A server that runs some of them answers those and leaves the others to another one.
async fn gives_back(stage: &Stage, report: &mut Report) {
    let what = "64 running, the rest to another server";
    let scene = Scene::start(stage, |_| {}, Duration::from_millis(250)).await;
    scene.stage.start_server(&Settings::new(&scene.stage.url())).await;
    let (server, good, took) = scene.terminate(SOON).await;
    report.line(format!("{what}: the server ended after {took:.0?}"));
    report.check(good, || {
        format!("{what}: the server failed: {:?}", server.stderr())
    });
    scene.end(what, report, true).await;
}

/// Handlers that take longer than the drain may are ended, and their callers told.
async fn ends_in_time(stage: &Stage, report: &mut Report) {
    let what = "handlers longer than the drain";
    let drain = Duration::from_millis(500);
    let all = |settings: &mut Settings| {
        settings.concurrency = CALLS;
        settings.drain = drain;
    };
    let scene = Scene::start(stage, all, TIMEOUT).await;
    let (_, good, took) = scene.terminate(SOON).await;
    report.line(format!("{what}: the server ended after {took:.0?} of {drain:?}"));
    report.check(took <= drain + SLACK, || {
        format!("{what}: ended only after {took:?}")
    });
    report.check(!good, || format!("{what}: the server says that all is done"));
    let begun = Instant::now();
    scene.end(what, report, false).await;
    let told = begun.elapsed();
    report.check(told < TIMEOUT / 2, || {
        format!("{what}: callers were told only after {told:?}")
    });
}

/// The second signal ends the process at once.
async fn ends_at_once(stage: &Stage, report: &mut Report) {
    let what = "second SIGTERM";
    let scene = Scene::start(stage, |_| {}, Duration::from_secs(1)).await;
    let mut server = scene.stage.take_server(0);
    server.signal(Signal::SIGTERM);
    server.wait_line("draining", SOON).await;
    server.signal(Signal::SIGTERM);
    let begun = Instant::now();
    let status = server.wait(SOON).await;
    let took = begun.elapsed();
    report.line(format!("{what}: the server ended after {took:.0?} with {status}"));
    report.check(took < SLACK, || format!("{what}: ended only after {took:?}"));
    report.check(status.code() == Some(143), || format!("{what}: {status}"));
    // What it ran is lost, as with a crash; the rest waits for another server.
    scene.stage.start_server(&Settings::new(&scene.stage.url())).await;
    scene.end(what, report, false).await;
}
