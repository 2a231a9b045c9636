//! A server process of a run.

use std::future::IntoFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commlib::{MessageContext, Node, NodeError, RequestContext, ServerHandle};

use super::contract::{Entries, EntriesHandler, GROUP, Kept, KeptServer, Work, WorkServer};
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

impl Keeper {
    fn kept(&self, ctx: &RequestContext, id: u64) {
        self.0.ran(Kind::Kept, id);
        if ctx.attempt() == 1 {
            self.0.ran(Kind::KeptFirst, id);
        }
    }
}

impl Kept for Keeper {
    async fn keep(&self, ctx: &RequestContext, id: u64, value: u64, hold_us: u64) -> (u64, u64) {
        self.kept(ctx, id);
        tokio::time::sleep(Duration::from_micros(hold_us)).await;
        (id, value)
    }

    async fn note(&self, ctx: &RequestContext, id: u64) {
        self.kept(ctx, id);
    }
}

/// How a server process is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker.
    pub url: String,
    /// How many requests it handles at once.
    pub concurrency: u32,
    /// Whether it takes messages of the durable topic and requests to the durable methods too.
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
    let serve = || {
        node.serve(WorkServer::new(keeper.clone()))
            .concurrency(settings.concurrency)
    };
    let _server = patiently(serve).await?;
    let _durable = match settings.durable {
        true => {
            let join = || {
                node.serve(EntriesHandler::new(keeper.clone()))
                    .group(GROUP)
                    .concurrency(CONCURRENCY as usize)
            };
            let joined = patiently(join).await?;
            let serve = || {
                node.serve(KeptServer::new(keeper.clone()))
                    .concurrency(CONCURRENCY)
            };
            let served = patiently(serve).await?;
            Some((joined, served))
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

/// So may the broker be slow, or go away while it is asked.
async fn patiently<S>(serve: impl Fn() -> S) -> Result<ServerHandle, String>
where
    S: IntoFuture<Output = Result<ServerHandle, NodeError>>,
{
    let mut last = String::new();
    for _ in 0..10 {
        match serve().await {
            Ok(server) => return Ok(server),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(format!("could not serve: {last}"))
}
