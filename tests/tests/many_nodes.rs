//! Many nodes in one program: what their connections take of its memory, also when all of them come back at once.
//!
//! In a program of its own, whose memory it is that is measured.

use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::memory::resident;
use commlib_tests::{FaultProxy, RabbitMq, RedisServer, eventually};
use futures_util::future::join_all;
use tokio::sync::Mutex;

const SOON: Duration = Duration::from_secs(60);
const NODES: usize = 100;
/// What a node may take with its connection and the proxy's, in bytes. On RabbitMQ, one that lapin fills buffers of the
/// usual size for takes 8 MiB.
const EACH: u64 = 2 * 1024 * 1024;
/// One at a time: both measure the same process.
static TURN: Mutex<()> = Mutex::const_new(());

#[commlib::topic(prefix = "many")]
trait Many {
    async fn here(&self, number: u64);
}

async fn take_little_memory(broker: u16, url_at: impl FnOnce(u16) -> String) {
    let proxy = FaultProxy::start(broker).await;
    let url = url_at(proxy.port());
    let own = std::process::id();
    let before = resident(own);
    let nodes = join_all((0..NODES).map(|_| Node::connect(&url))).await;
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.expect("connected")).collect();
    for _ in 0..4 {
        let publish = join_all(nodes.iter().map(|node| async move {
            // What is published while a node has no connection is refused at once.
            eventually(SOON, || ManyPublisher::new(node).here(1).into_future()).await;
        }));
        publish.await;
        let taken = resident(own).saturating_sub(before) / NODES as u64;
        assert!(taken < EACH, "a node takes {taken} bytes");
        proxy.reset().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_take_little_memory_on_redis() {
    let _turn = TURN.lock().await;
    let redis = RedisServer::shared().await;
    take_little_memory(redis.port(), |port| redis.url_at(port)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_take_little_memory_on_rabbitmq() {
    let _turn = TURN.lock().await;
    let rabbit = RabbitMq::shared().await;
    take_little_memory(rabbit.port(), |port| rabbit.url_at(port)).await;
}
