//! A contract, and nodes on a broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use commlib::{NodeBuilder, ServerHandle};
use commlib_tests::unique;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::Semaphore;

/// How long a test waits for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

#[commlib::rpc_service(name = "work")]
pub(crate) trait Work {
    async fn add(&self, a: i64, b: i64) -> i64;
    /// Waits for a pass of the gate.
    async fn wait(&self) -> u64;
    #[rpc(oneway)]
    async fn note(&self);
}

/// Served by nobody.
#[commlib::rpc_service(name = "absent")]
pub(crate) trait Absent {
    async fn add(&self, a: i64, b: i64) -> i64;
    #[rpc(oneway)]
    async fn note(&self);
}

/// A neighbour on the same node.
#[commlib::rpc_service(name = "other")]
pub(crate) trait Other {
    async fn ping(&self) -> bool;
}

pub(crate) struct Ping;

impl Other for Ping {
    async fn ping(&self) -> bool {
        true
    }
}

#[commlib::topic(prefix = "news")]
pub(crate) trait News {
    async fn item(&self, number: u64);
}

/// What the handlers did, and the gate that they pass one by one.
pub(crate) struct Seen {
    pub(crate) waiting: AtomicU64,
    pub(crate) notes: AtomicU64,
    pub(crate) gate: Semaphore,
}

impl Seen {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicU64::new(0),
            notes: AtomicU64::new(0),
            gate: Semaphore::new(0),
        })
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn notes(&self) -> u64 {
        self.notes.load(Ordering::SeqCst)
    }
}

pub(crate) struct Worker(pub(crate) Arc<Seen>);

impl Work for Worker {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn wait(&self) -> u64 {
        let run = self.0.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.gate.acquire().await.expect("the gate is open").forget();
        run
    }

    async fn note(&self) {
        self.0.gate.acquire().await.expect("the gate is open").forget();
        self.0.notes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Nodes of one namespace.
pub(crate) struct World {
    url: String,
    namespace: String,
}

impl World {
    pub(crate) fn new(url: String) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter("commlib=info")
            .with_test_writer()
            .try_init();
        Self {
            url,
            namespace: unique("amqp"),
        }
    }

    pub(crate) fn builder(&self) -> NodeBuilder {
        Node::builder().namespace(&self.namespace)
    }

    pub(crate) async fn node(&self) -> Node {
        self.builder()
            .connect(&self.url)
            .await
            .expect("the broker is there")
    }

    /// A node that waits for as long as a slow machine may take.
    pub(crate) async fn patient_node(&self) -> Node {
        const LONG: Duration = Duration::from_secs(120);
        let patient = self.builder().connect_timeout(LONG).operation_timeout(LONG);
        patient.connect(&self.url).await.expect("the broker is there")
    }

    pub(crate) fn address(&self, address: &str) -> String {
        format!("{}.{address}", self.namespace)
    }

    pub(crate) async fn serve_auto_ack(&self, node: &Node, concurrency: u32) -> (ServerHandle, Arc<Seen>) {
        let seen = Seen::new();
        let server = node.serve(WorkServer::new(Worker(Arc::clone(&seen))));
        let server = server.concurrency(concurrency).auto_ack();
        (server.await.expect("serving"), seen)
    }

    pub(crate) async fn serve(&self, node: &Node, concurrency: u32) -> (ServerHandle, Arc<Seen>) {
        let seen = Seen::new();
        let server = node.serve(WorkServer::new(Worker(Arc::clone(&seen))));
        let server = server.concurrency(concurrency).await.expect("serving");
        (server, seen)
    }

    /// Refuses what waited for longer than the limit.
    pub(crate) async fn serve_young(
        &self,
        node: &Node,
        concurrency: u32,
        limit: Duration,
    ) -> (ServerHandle, Arc<Seen>) {
        let seen = Seen::new();
        let server = node.serve(WorkServer::new(Worker(Arc::clone(&seen))));
        let server = server.concurrency(concurrency).max_wait(limit);
        (server.await.expect("serving"), seen)
    }

    /// Past the library.
    pub(crate) async fn raw(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.url, ConnectionProperties::default())
            .await
            .expect("the broker is there");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }
}
