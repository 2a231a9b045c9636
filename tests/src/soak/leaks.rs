//! The leak run: calls that are dropped, time out, or whose client is killed, and what is left of them.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use super::brokers::{Broker, BrokerKind};
use super::report::Report;
use super::server::Settings;
use super::stage::Stage;
use crate::{Child, Program, Signal, memory};

/// How many clients live at once of those that are killed.
const DYING: usize = 16;
/// The least that a client calls that is to be killed halfway.
const LEAST: u64 = 20;
/// How long nothing temporary may outlive its owner.
const LIFE: Duration = Duration::from_secs(60);
/// How long a client may take for all of its calls.
const LIMIT: Duration = Duration::from_secs(600);
/// How much more memory a process may use at the end than when it was warm: a tenth, and this.
const SLACK_KIB: u64 = 4 * 1024;

/// What a leak run does.
#[derive(Debug, Clone)]
pub struct LeakRun {
    /// On which broker.
    pub broker: BrokerKind,
    /// How many calls are made by the client that lives; the killed ones together make a fifth of that before they die.
    pub calls: u64,
    /// How many clients are killed.
    pub killed: u64,
    /// Whether what is left is looked at after a minute. Else at once: it must be about to go by itself.
    pub patient: bool,
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: usize,
    rss_kib: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
        Self {
            descriptors: descriptors
                .unwrap_or_else(|error| panic!("could not look at process {pid}: {error}")),
            rss_kib: memory::resident(pid) / 1024,
        }
    }
}

impl LeakRun {
    /// The full form.
    #[must_use]
    pub fn full(broker: BrokerKind) -> Self {
        Self {
            broker,
            calls: 100_000,
            killed: 1_000,
            patient: true,
        }
    }

    /// Runs it with servers and clients of `program`.
    ///
    /// # Panics
    /// When a broker, a server or a client does not start, or a client does not end.
    pub async fn run(self, program: PathBuf) -> Report {
        let (broker, calls, killed) = (self.broker, self.calls, self.killed);
        let mut report = Report::new(format!(
            "leaks on {broker}, {calls} calls and {killed} killed clients"
        ));
        let stage = Stage::start(broker, program.clone()).await;
        let mut settings = Settings::new(&stage.broker.url());
        settings.concurrency = 256;
        stage.start_server(&settings).await;
        let server = stage.server_pids()[0];
        let before = left(&stage.broker).await;

        let client = |first: u64, calls: u64| {
            Program::new(&program)
                .args(["client", "--url", &settings.url])
                .args(["--first", &first.to_string(), "--calls", &calls.to_string()])
                .name("client")
                .start()
        };
        let begun = Instant::now();
        let mut steady = client(1, calls);
        // Allocators and the buffers of connections go on growing, more and more slowly, until some 50,000 calls were made.
        steady.wait_line("half", LIMIT).await;
        let warm = [Usage::of(server), Usage::of(steady.pid())];
        let each = (2 * calls / 5 / killed.max(1)).max(LEAST);
        stream::iter(1..=killed)
            .for_each_concurrent(DYING, |number| {
                let mut victim: Child = client(number << 32, each);
                async move {
                    victim.wait_line("half", LIMIT).await;
                    victim.kill().await;
                }
            })
            .await;
        let done = steady.wait_line("done", LIMIT).await;
        report.line(format!("{done}, in {:.1?}", begun.elapsed()));
        report.check(done.contains("failed: 0"), || "calls failed".to_owned());
        let end = [Usage::of(server), Usage::of(steady.pid())];
        for (what, warm, end) in [("server", warm[0], end[0]), ("client", warm[1], end[1])] {
            report.line(format!("{what}: {warm:?} when warm, {end:?} at the end"));
            report.check(end.descriptors <= warm.descriptors + 2, || {
                format!("{what}: descriptors grow")
            });
            report.check(
                end.rss_kib <= warm.rss_kib + warm.rss_kib / 10 + SLACK_KIB,
                || format!("{what}: memory grows"),
            );
        }
        steady.signal(Signal::SIGTERM);
        let status = steady.wait(Duration::from_secs(20)).await;
        report.check(status.success(), || {
            format!("the client ended with {status}: {:?}", steady.stderr())
        });

        let extra = if self.patient {
            tokio::time::sleep(LIFE).await;
            extra(&before, left(&stage.broker).await)
        } else {
            let left = extra(&before, left(&stage.broker).await);
            lasting(&stage.broker, left).await
        };
        let when = if self.patient {
            "after 60 s"
        } else {
            "for longer than 60 s"
        };
        report.line(format!(
            "{} things left {when}, beside {} of the server",
            extra.len(),
            before.len()
        ));
        report.check(extra.is_empty(), || format!("left {when}: {extra:?}"));
        stage
            .stop_servers(Duration::from_secs(20))
            .await
            .iter()
            .for_each(|text| report.fail(text));
        report
    }
}

/// The names of all keys or queues.
async fn left(broker: &Broker) -> Vec<String> {
    match broker {
        Broker::Redis(broker) => broker.keys("*").await,
        Broker::Amqp(broker) => {
            let rows = broker.list(&["list_queues", "name"]).await;
            rows.into_iter()
                .flatten()
                .filter(|name| !name.is_empty())
                .collect()
        }
    }
}

fn extra(before: &[String], after: Vec<String>) -> Vec<String> {
    after.into_iter().filter(|name| !before.contains(name)).collect()
}

/// Those that will not be gone within [`LIFE`] by themselves. Queues of a dead connection go with it.
async fn lasting(broker: &Broker, names: Vec<String>) -> Vec<String> {
    let Broker::Redis(broker) = broker else {
        return names;
    };
    let mut lasting = Vec::new();
    for name in names {
        let life = broker.command(&["PTTL", &name]).await.int();
        // -2 is gone already.
        if life == -1 || u128::try_from(life).is_ok_and(|life| life > LIFE.as_millis()) {
            lasting.push(format!("{name} (for {life} ms)"));
        }
    }
    lasting
}
