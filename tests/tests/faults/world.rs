//! A contract, brokers that may be hurt, and a record of what ran.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::{NodeBuilder, ServerHandle};
use commlib_tests::{FaultProxy, RabbitMq, RedisServer, SharedRabbitMq, SharedRedis, eventually, unique};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// How long a test waits for what must happen. A RabbitMQ that was killed takes some seconds to boot.
pub const SOON: Duration = Duration::from_secs(30);

#[commlib::rpc_service(name = "job")]
pub trait Job {
    /// Runs at once.
    async fn run(&self, number: u64) -> u64;
    /// Waits for a pass of the gate.
    async fn hold(&self, number: u64) -> u64;
    /// Waits until its caller is gone.
    async fn wait(&self, ctx: &RequestContext);
    /// Panics where the number is odd.
    async fn fail(&self, number: u64) -> u64;
    #[rpc(oneway)]
    async fn note(&self, number: u64);
}

/// A service whose handlers call on.
#[commlib::rpc_service(name = "link")]
pub trait Link {
    async fn pass(&self, ctx: &RequestContext, number: u64) -> Result<u64, Broken>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

#[commlib::topic(prefix = "news")]
pub trait News {
    async fn item(&self, number: u64);
}

/// What the handlers of any number of servers did.
pub struct Record {
    runs: Mutex<HashMap<u64, u32>>,
    pub gate: Semaphore,
}

impl Record {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            runs: Mutex::default(),
            gate: Semaphore::new(0),
        })
    }

    fn ran(&self, number: u64) {
        *self.runs.lock().entry(number).or_default() += 1;
    }

    /// How often the handler ran for this number.
    pub fn runs(&self, number: u64) -> u32 {
        self.runs.lock().get(&number).copied().unwrap_or(0)
    }

    /// For how many numbers it ran.
    pub fn numbers(&self) -> usize {
        self.runs.lock().len()
    }
}

#[derive(Clone)]
pub struct Worker(pub Arc<Record>);

impl Job for Worker {
    async fn run(&self, number: u64) -> u64 {
        self.0.ran(number);
        number
    }

    async fn hold(&self, number: u64) -> u64 {
        self.0.ran(number);
        self.0.gate.acquire().await.expect("the gate is open").forget();
        number
    }

    async fn wait(&self, ctx: &RequestContext) {
        self.0.ran(0);
        ctx.canceled().await;
    }

    async fn fail(&self, number: u64) -> u64 {
        self.0.ran(number);
        assert!(number.is_multiple_of(2), "odd numbers are not served");
        number
    }

    async fn note(&self, number: u64) {
        self.0.ran(number);
    }
}

impl News for Worker {
    async fn item(&self, number: u64) {
        self.0.ran(number);
    }
}

/// A broker: one of the test's own, or the one that all share.
pub enum Broker {
    Redis(RedisServer),
    SharedRedis(SharedRedis),
    RabbitMq(RabbitMq),
    SharedRabbitMq(SharedRabbitMq),
}

impl Broker {
    pub fn port(&self) -> u16 {
        match self {
            Self::Redis(broker) => broker.port(),
            Self::SharedRedis(broker) => broker.port(),
            Self::RabbitMq(broker) => broker.port(),
            Self::SharedRabbitMq(broker) => broker.port(),
        }
    }

    pub fn is_redis(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::SharedRedis(_))
    }

    fn url_at(&self, port: u16) -> String {
        if self.is_redis() {
            format!("redis://127.0.0.1:{port}")
        } else {
            format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
        }
    }

    pub async fn kill(&self) {
        match self {
            Self::Redis(broker) => broker.kill().await,
            Self::RabbitMq(broker) => broker.kill().await,
            _ => panic!("a shared broker is not to be hurt"),
        }
    }

    pub async fn stop(&self) {
        match self {
            Self::Redis(broker) => broker.stop().await,
            Self::RabbitMq(broker) => broker.stop().await,
            _ => panic!("a shared broker is not to be hurt"),
        }
    }

    pub async fn restart(&self) {
        match self {
            Self::Redis(broker) => broker.restart().await,
            Self::RabbitMq(broker) => broker.restart().await,
            _ => panic!("a shared broker is not to be hurt"),
        }
    }

    pub fn freeze(&self) {
        match self {
            Self::Redis(broker) => broker.freeze(),
            Self::RabbitMq(broker) => broker.freeze(),
            _ => panic!("a shared broker is not to be hurt"),
        }
    }

    pub fn thaw(&self) {
        match self {
            Self::Redis(broker) => broker.thaw(),
            Self::RabbitMq(broker) => broker.thaw(),
            _ => panic!("a shared broker is not to be hurt"),
        }
    }
}

/// Nodes of one namespace on a broker.
pub struct World {
    pub broker: Broker,
    namespace: String,
}

impl World {
    pub fn on(broker: Broker) -> Self {
        // What nodes log belongs into the output of a failing test.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("commlib=info")
            .with_test_writer()
            .try_init();
        Self {
            broker,
            namespace: unique("faults"),
        }
    }

    /// With a broker of its own.
    pub async fn redis() -> Self {
        Self::on(Broker::Redis(RedisServer::start().await))
    }

    /// With a broker of its own.
    pub async fn amqp() -> Self {
        Self::on(Broker::RabbitMq(RabbitMq::start().await))
    }

    pub async fn shared_redis() -> Self {
        Self::on(Broker::SharedRedis(RedisServer::shared().await))
    }

    pub async fn shared_amqp() -> Self {
        Self::on(Broker::SharedRabbitMq(RabbitMq::shared().await))
    }

    pub fn url(&self) -> String {
        self.broker.url_at(self.broker.port())
    }

    pub fn builder(&self) -> NodeBuilder {
        Node::builder().namespace(&self.namespace)
    }

    pub async fn node(&self) -> Node {
        self.builder()
            .connect(&self.url())
            .await
            .expect("the broker is there")
    }

    /// An address as it is at the broker.
    pub fn address(&self, address: &str) -> String {
        format!("{}.{address}", self.namespace)
    }

    /// A relay before the broker, and the URL that goes through it.
    pub async fn proxy(&self) -> (FaultProxy, String) {
        let proxy = FaultProxy::start(self.broker.port()).await;
        let url = self.broker.url_at(proxy.port());
        (proxy, url)
    }

    /// Serves the job on a node of its own.
    pub async fn serve(&self, concurrency: u32) -> (Node, ServerHandle, Arc<Record>) {
        let node = self.node().await;
        let record = Record::new();
        let server = serve(&node, &record, concurrency).await;
        (node, server, record)
    }
}

pub async fn serve(node: &Node, record: &Arc<Record>, concurrency: u32) -> ServerHandle {
    let server = node.serve(JobServer::new(Worker(Arc::clone(record))));
    server.concurrency(concurrency).await.expect("serving")
}

/// Calls until one is answered.
pub async fn answered(job: &JobClient) {
    eventually(SOON, || async {
        job.run(u64::MAX).timeout(Duration::from_secs(1)).await
    })
    .await;
}

/// How a call failed.
pub fn ending<T: Debug, E: Debug>(result: Result<T, CallError<E>>) -> (StatusCode, commlib::Execution) {
    match result {
        Err(CallError::Status(status)) => (status.code, status.execution),
        other => panic!("it did not fail at the broker or the server: {other:?}"),
    }
}

/// How many calls of a node are in flight.
pub fn in_flight(node: &Node) -> usize {
    let shown = format!("{node:?}");
    let number = shown.split(" in_flight: ").nth(1).expect("the node says it");
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
