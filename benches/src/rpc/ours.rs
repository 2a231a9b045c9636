//! commlib itself, as its users write it.

use std::sync::atomic::{AtomicUsize, Ordering};

use commlib::Node;
use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};

use super::{Echoed, Sum};

/// What every system here does.
#[commlib::rpc_service(name = "bench")]
pub(crate) trait Bench {
    /// Adds two integers.
    async fn add(&self, a: i64, b: i64) -> Sum;
    /// Gives a text back.
    async fn echo(&self, text: String) -> Echoed;
}

struct Handler;

impl Bench for Handler {
    async fn add(&self, a: i64, b: i64) -> Sum {
        Sum { c: a + b }
    }

    async fn echo(&self, text: String) -> Echoed {
        Echoed { text }
    }
}

/// Serves from so many nodes until the input ends, with the default settings but for `auto_ack`.
pub(crate) async fn serve(url: &str, nodes: usize, auto_ack: bool) -> anyhow::Result<()> {
    let mut serving = Vec::new();
    for _ in 0..nodes {
        let node = Node::connect(url).await?;
        let server = node.serve(BenchServer::new(Handler));
        if auto_ack {
            server.auto_ack().await?;
        } else {
            server.await?;
        }
        serving.push(node);
    }
    say("ready")?;
    Lines::stdin().end().await;
    drop(serving);
    Ok(())
}

/// Calls with the default settings, over so many nodes in turn; over `memory://`, what it serves itself.
pub(crate) async fn drive(url: &str, nodes: usize) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for number in 0..nodes {
        let node = Node::connect(url).await?;
        if number == 0 && url.starts_with("memory:") {
            node.serve(BenchServer::new(Handler)).await?;
        }
        clients.push(BenchClient::new(&node));
    }
    let next = AtomicUsize::new(0);
    drive_rpc(Client { clients, next }).await
}

struct Client {
    clients: Vec<BenchClient>,
    next: AtomicUsize,
}

impl RpcClient for Client {
    type Worker = Worker;

    async fn worker(&self) -> Result<Worker, Fault> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        Ok(Worker(self.clients[next].clone()))
    }
}

struct Worker(BenchClient);

impl RpcWorker for Worker {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.0.add(a, b).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        Ok(self.0.echo(text.to_owned()).await?.text)
    }
}

/// Calls a service of this process `calls` times, one after the other, for counting instructions. On the runtime of one
/// thread, as the clock stands still: a handler that a busy machine interrupts would look slow, and get a task.
pub(crate) async fn count(calls: u64) -> anyhow::Result<()> {
    tokio::time::pause();
    let node = Node::connect("memory://count").await?;
    node.serve(BenchServer::new(Handler)).await?;
    let client = BenchClient::new(&node);
    for number in 0..calls {
        let number = number as i64;
        let sum = client.add(number, number).await?.c;
        anyhow::ensure!(sum == 2 * number, "add({number}, {number}) is {sum}");
    }
    Ok(())
}
