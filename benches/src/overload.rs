//! Ten times what a server can do: what it still does, what is refused, and how quickly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use commlib::{CallError, NoError, Node, StatusCode};
use commlib_bench_protocol::{Latencies, Lines, Outcome, say, say_json};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::process::{Process, peak_mib};
use crate::run::Brokers;
use crate::systems::Broker;

/// What the slow server can do: this many calls at once, each of this length.
const AT_ONCE: u32 = 16;
const WORK: Duration = Duration::from_millis(10);
const TIMES: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that takes its time.
#[commlib::rpc_service(name = "bench_slow")]
pub(crate) trait Slow {
    /// Works for 10 ms.
    async fn work(&self) -> u32;
}

struct Handler;

impl Slow for Handler {
    async fn work(&self) -> u32 {
        tokio::time::sleep(WORK).await;
        1
    }
}

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Transports, by comma.
    #[arg(long, value_delimiter = ',', default_value = "memory,redis,amqp")]
    transports: Vec<String>,
    /// The longest waits of requests, in ms, by comma; a run without a limit comes first.
    #[arg(long, value_delimiter = ',', default_value = "1000,2000")]
    max_wait_ms: Vec<u64>,
    /// How long the load lasts.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Writes the figures to this file, as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What became of one transport under load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Overload {
    pub(crate) transport: String,
    /// How long a request may wait for its turn, where the server limits that.
    pub(crate) max_wait_ms: Option<u64>,
    /// Calls per second for callers that wait.
    pub(crate) peak: f64,
    /// Calls per second that were tried.
    pub(crate) offered: f64,
    /// Calls per second that were answered meanwhile.
    pub(crate) answered: f64,
    pub(crate) refused: u64,
    /// How long a refusal took: median and 99th percentile.
    pub(crate) refusal_ms: [f64; 2],
    /// How long an answer took: median and 99th percentile.
    pub(crate) answer_ms: [f64; 2],
    /// Calls that ended otherwise, and how the first of them did.
    pub(crate) other: u64,
    pub(crate) error: Option<String>,
    /// The part of the answers that the first client got.
    pub(crate) share: f64,
    /// Peak memory of a client and of the server.
    pub(crate) peak_mib: [f64; 2],
}

/// An order to a client process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Load {
    /// Calls per second, without waiting for replies; 0: a closed loop.
    rate: f64,
    seconds: f64,
}

/// What one node of a client process saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Seen {
    tried: u64,
    /// Answers within the time of the load, its first second left out.
    answered: u64,
    seconds: f64,
    answers: Outcome,
    refusals: Outcome,
    other: u64,
    error: Option<String>,
}

/// Measures all transports and prints a line for each.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for transport in &options.transports {
        let limits = options.max_wait_ms.iter().copied().map(Some);
        for max_wait_ms in std::iter::once(None).chain(limits) {
            let row = one(transport, max_wait_ms, options.seconds)
                .await
                .with_context(|| transport.clone())?;
            println!("{row:?}");
            rows.push(row);
        }
    }
    if let Some(file) = options.out {
        std::fs::write(file, serde_json::to_vec(&rows)?)?;
    }
    Ok(())
}

async fn one(transport: &str, max_wait_ms: Option<u64>, seconds: f64) -> anyhow::Result<Overload> {
    let broker = match transport {
        "memory" => Broker::None,
        "redis" => Broker::Redis,
        "amqp" => Broker::RabbitMq,
        other => anyhow::bail!("{other} is no transport"),
    };
    let brokers = Brokers::start(&[broker]).await?;
    let own = std::env::current_exe()?;
    let start = |role: &str, nodes: usize| {
        let mut command = Command::new(&own);
        let url = match broker {
            Broker::None => "memory://overload".to_owned(),
            _ => brokers.url(broker)?,
        };
        command.args([role, "--broker", &url]);
        if let Some(limit) = max_wait_ms {
            command.args(["--max-wait-ms", &limit.to_string()]);
        }
        if role == "slow-client" {
            command.args(["--nodes", &nodes.to_string()]);
        }
        anyhow::Ok(Process::start(format!("{role} over {transport}"), command))
    };
    let mut clients = Vec::new();
    let server = if broker == Broker::None {
        clients.push(start("slow-client", 2)?.await?);
        None
    } else {
        let server = start("slow-server", 1)?.await?;
        clients.push(start("slow-client", 1)?.await?);
        clients.push(start("slow-client", 1)?.await?);
        Some(server)
    };
    let calm = load(&mut clients, 0.0, 3.0).await?;
    let peak: f64 = calm.iter().map(|seen| seen.answered as f64 / seen.seconds).sum();
    let capacity = f64::from(AT_ONCE) / WORK.as_secs_f64();
    let seen = load(&mut clients, capacity * TIMES / 2.0, seconds).await?;
    let answered: u64 = seen.iter().map(|seen| seen.answered).sum();
    let worst = |figure: fn(&Seen) -> f64| seen.iter().map(figure).fold(0.0, f64::max) / 1_000.0;
    let row = Overload {
        transport: transport.to_owned(),
        max_wait_ms,
        peak,
        offered: seen.iter().map(|seen| seen.tried).sum::<u64>() as f64 / seconds,
        answered: seen.iter().map(|seen| seen.answered as f64 / seen.seconds).sum(),
        refused: seen.iter().map(|seen| seen.refusals.count).sum(),
        refusal_ms: [worst(|seen| seen.refusals.p50), worst(|seen| seen.refusals.p99)],
        answer_ms: [worst(|seen| seen.answers.p50), worst(|seen| seen.answers.p99)],
        other: seen.iter().map(|seen| seen.other).sum(),
        error: seen.iter().find_map(|seen| seen.error.clone()),
        share: seen[0].answered as f64 / answered.max(1) as f64,
        peak_mib: [
            peak_mib(clients[0].pid()),
            peak_mib(server.as_ref().and_then(Process::pid)),
        ],
    };
    for process in clients.into_iter().chain(server) {
        process.end().await;
    }
    Ok(row)
}

/// Puts the same load on all clients at once.
async fn load(clients: &mut [Process], rate: f64, seconds: f64) -> anyhow::Result<Vec<Seen>> {
    for client in clients.iter_mut() {
        client.order(&Load { rate, seconds }).await?;
    }
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.answer::<Vec<Seen>>(PATIENCE).await?);
    }
    anyhow::ensure!(all.len() == 2, "there are two clients");
    Ok(all)
}

/// Where a slow server or a client of it connects, and what the server is told.
#[derive(Args, Debug)]
pub(crate) struct Place {
    #[arg(long)]
    broker: String,
    /// How long a request may wait for its turn.
    #[arg(long)]
    max_wait_ms: Option<u64>,
}

impl Place {
    async fn start(&self, node: &Node) -> anyhow::Result<()> {
        let mut server = node.serve(SlowServer::new(Handler)).concurrency(AT_ONCE);
        if let Some(limit) = self.max_wait_ms {
            server = server.max_wait(Duration::from_millis(limit));
        }
        server.await?;
        Ok(())
    }
}

/// Is the slow server, until the input ends.
pub(crate) async fn serve(place: &Place) -> anyhow::Result<()> {
    let node = Node::connect(&place.broker).await?;
    place.start(&node).await?;
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

/// Is a client process with so many nodes, until the input ends; over `memory://`, the server as well.
pub(crate) async fn drive(place: &Place, nodes: usize) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for number in 0..nodes {
        let node = Node::connect(&place.broker).await?;
        if number == 0 && place.broker.starts_with("memory:") {
            place.start(&node).await?;
        }
        clients.push(SlowClient::new(&node));
    }
    let mut lines = Lines::stdin();
    say("ready")?;
    while let Some(order) = lines.next::<Load>().await? {
        let mut running = JoinSet::new();
        for client in &clients {
            running.spawn(offer(client.clone(), order));
        }
        let seen = running.join_all().await;
        say_json(&seen.into_iter().collect::<anyhow::Result<Vec<_>>>()?)?;
    }
    Ok(())
}

/// Counts what calls come to.
struct Counter {
    from: Instant,
    until: Instant,
    answers: Latencies,
    refusals: Latencies,
    seen: Mutex<Seen>,
}

impl Counter {
    async fn call(&self, client: &SlowClient) {
        let started = Instant::now();
        let result = client.work().await;
        let (now, taken) = (Instant::now(), started.elapsed().as_nanos() as u64);
        let mut seen = self.seen.lock();
        match result {
            Ok(_) => {
                self.answers.record(0, taken);
                seen.answers.count += 1;
                if now >= self.from && now < self.until {
                    seen.answered += 1;
                }
            }
            Err(error) if refused(&error) => {
                self.refusals.record(0, taken);
                seen.refusals.count += 1;
            }
            Err(error) => {
                seen.other += 1;
                seen.error.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

fn refused(error: &CallError<NoError>) -> bool {
    error.code() == Some(StatusCode::ResourceExhausted)
}

async fn offer(client: SlowClient, load: Load) -> anyhow::Result<Seen> {
    let begin = Instant::now();
    let from = begin + Duration::from_secs(1);
    let until = begin + Duration::from_secs_f64(load.seconds);
    let counter = Arc::new(Counter {
        from,
        until,
        answers: Latencies::new()?,
        refusals: Latencies::new()?,
        seen: Mutex::default(),
    });
    let mut calls = JoinSet::new();
    if load.rate > 0.0 {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let mut tried: u64 = 0;
        while Instant::now() < until {
            ticks.tick().await;
            // What is due by now: a late tick does not lower the rate.
            let due = (begin.elapsed().as_secs_f64() * load.rate) as u64;
            for _ in tried..due {
                let (client, counter) = (client.clone(), Arc::clone(&counter));
                calls.spawn(async move { counter.call(&client).await });
            }
            tried = due;
            while calls.try_join_next().is_some() {}
        }
        counter.seen.lock().tried = tried;
    } else {
        for _ in 0..AT_ONCE {
            let (client, counter) = (client.clone(), Arc::clone(&counter));
            calls.spawn(async move {
                while Instant::now() < counter.until {
                    counter.call(&client).await;
                }
            });
        }
    }
    while calls.join_next().await.is_some() {}
    let mut seen = counter.seen.lock().clone();
    seen.seconds = (until - from).as_secs_f64();
    counter.answers.summarise(&mut seen.answers)?;
    counter.refusals.summarise(&mut seen.refusals)?;
    Ok(seen)
}
