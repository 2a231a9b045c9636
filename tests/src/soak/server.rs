//! A server process of a run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commlib::{MessageContext, Node};

use super::contract::{Entries, EntriesHandler, GROUP, Work, WorkServer};
use super::runs::{Kind, RunLog};

/// How many requests, and how many messages, a server handles at once.
const CONCURRENCY: u32 = 64;

#[derive(Clone)]
struct Keeper(Arc<RunLog>);

impl Work for Keeper {
    async fn work(&self, id: u64, value: u64, hold_us: u64) -> (u64, u64) {
        self.0.ran(Kind::Call, id);
        if hold_us > 0 {
            tokio::time::sleep(Duration::from_micros(hold_us)).await;
        }
        (id, value)
    }
}

impl Entries for Keeper {
    async fn entry(&self, _: &MessageContext, id: u64) {
        self.0.ran(Kind::Message, id);
    }
}

/// How a server process is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker.
    pub url: String,
    /// How many requests it handles at once.
    pub concurrency: u32,
    /// Whether it takes messages of the durable topic too.
    pub durable: bool,
    /// How long it may take to end.
    pub drain: Duration,
}

impl Settings {
    /// The usual server.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            concurrency: CONCURRENCY,
            durable: false,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until SIGTERM, then drains. Prints `ready` when it serves, `drained` when it has ended in time.
///
/// # Errors
/// In words.
pub async fn serve(settings: Settings, runs: &Path) -> Result<(), String> {
    let terminated = commlib::signal::terminated().map_err(|error| error.to_string())?;
    let keeper = Keeper(Arc::new(RunLog::create(runs)));
    let node = connect(&settings.url).await?;
    let serving = node
        .serve(WorkServer::new(keeper.clone()))
        .concurrency(settings.concurrency)
        .await;
    let _server = serving.map_err(|error| format!("could not serve: {error}"))?;
    let _handler = match settings.durable {
        true => {
            let joining = node.serve(EntriesHandler::new(keeper)).group(GROUP);
            let joined = joining.concurrency(CONCURRENCY as usize).await;
            Some(joined.map_err(|error| format!("could not join the group: {error}"))?)
        }
        false => None,
    };
    println!("ready");
    terminated.await;
    println!("draining");
    node.shutdown(settings.drain)
        .await
        .map_err(|error| format!("could not drain: {error}"))?;
    println!("drained");
    Ok(())
}

/// A server may be started while the broker is away.
async fn connect(url: &str) -> Result<Node, String> {
    let mut last = String::new();
    for _ in 0..60 {
        match Node::connect(url).await {
            Ok(node) => return Ok(node),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(format!("could not connect: {last}"))
}
