//! Durable topics when brokers and members die for real.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::{Dialect, Durability};
use commlib_tests::{Program, RabbitMq, RedisServer, eventually, unique};
use parking_lot::Mutex;

/// How long a test waits for what must happen; a member that died is missed after 10 s.
const SOON: Duration = Duration::from_secs(40);
/// Where the child of a test connects to.
const BROKER: &str = "COMMLIB_TEST_BROKER";

#[commlib::topic(prefix = "orders")]
trait Orders {
    #[topic("placed", durable)]
    async fn placed(&self, ctx: &MessageContext, order: u64);
}

/// Remembers what it handled, and the attempt of each.
#[derive(Clone, Default)]
struct Clerk(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Orders for Clerk {
    async fn placed(&self, ctx: &MessageContext, order: u64) {
        self.0.lock().insert(order, ctx.attempt());
    }
}

impl Clerk {
    async fn handled(&self, orders: std::ops::Range<u64>) {
        eventually(SOON, || async {
            let handled: Vec<_> = self.0.lock().keys().copied().collect();
            if handled == orders.clone().collect::<Vec<_>>() {
                Ok(())
            } else {
                Err(handled)
            }
        })
        .await;
    }
}

async fn serve(url: &str) -> (Node, Clerk) {
    let node = Node::connect(url).await.expect("the broker is there");
    let clerk = Clerk::default();
    node.serve(OrdersHandler::new(clerk.clone()))
        .group("clerks")
        .concurrency(4)
        .await
        .expect("joining the group");
    (node, clerk)
}

async fn place(node: &Node, orders: std::ops::Range<u64>) -> Durability {
    let publisher = OrdersPublisher::new(node);
    let mut durability = Durability::None;
    for order in orders {
        let accepted = publisher.placed(order).timeout(SOON).await.expect("publishing");
        durability = accepted.durability;
    }
    durability
}

/// What was accepted before the broker was killed is there after it was started again, and members come back.
async fn outlives_the_broker(url: &str, kill_and_restart: impl AsyncFnOnce()) -> Durability {
    let (away, _) = serve(url).await;
    away.shutdown(SOON).await.unwrap();
    let (auditor, audit) = {
        let node = Node::connect(url).await.unwrap();
        let clerk = Clerk::default();
        let handler = OrdersHandler::new(clerk.clone());
        node.serve(handler).group("auditors").await.unwrap();
        (node, clerk)
    };
    let durability = place(&auditor, 0..50).await;
    audit.handled(0..50).await;
    kill_and_restart().await;
    place(&auditor, 50..60).await;
    let (_node, clerk) = serve(url).await;
    clerk.handled(0..60).await;
    audit.handled(0..60).await;
    durability
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_an_append_only_file_keeps_what_it_accepted() {
    let broker = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let durability = outlives_the_broker(&broker.url(), async || {
        broker.kill().await;
        broker.restart().await;
    })
    .await;
    assert_eq!(durability, Durability::BrokerDisk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_keeps_what_it_accepted() {
    let broker = RabbitMq::start().await;
    let durability = outlives_the_broker(&broker.url(), async || {
        broker.kill().await;
        broker.restart().await;
    })
    .await;
    assert_eq!(durability, Durability::BrokerDisk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_says_how_well_it_keeps() {
    for (args, kept) in [
        (&["--appendonly", "no"][..], Durability::BrokerMemory),
        (
            &["--appendonly", "yes", "--appendfsync", "everysec"],
            Durability::BrokerFile,
        ),
    ] {
        let broker = RedisServer::start_with(args).await;
        let node = Node::connect(&broker.url()).await.unwrap();
        let durability = place(&node, 0..1).await;
        assert_eq!(durability, kept);
        assert_eq!(durability.survives_restart(), kept != Durability::BrokerMemory);
    }
}

/// Is the member that is killed; only when a test starts it so.
#[tokio::test]
async fn child() {
    #[derive(Clone)]
    struct Stuck;
    impl Orders for Stuck {
        async fn placed(&self, _: &MessageContext, order: u64) {
            println!("took {order}");
            std::future::pending().await
        }
    }
    let Ok(url) = std::env::var(BROKER) else { return };
    let node = Node::connect(&url).await.unwrap();
    let handler = OrdersHandler::new(Stuck);
    node.serve(handler).group("clerks").concurrency(2).await.unwrap();
    println!("ready");
    std::future::pending().await
}

/// A member that is killed while it handles messages leaves them to another one.
async fn a_killed_member_loses_nothing(url: &str) {
    let program = std::env::current_exe().unwrap();
    let mut child = Program::new(program)
        .args(["--exact", "child", "--nocapture"])
        .env(BROKER, url)
        .name("member")
        .start();
    child.wait_line("ready", SOON).await;
    let node = Node::connect(url).await.unwrap();
    place(&node, 0..10).await;
    for _ in 0..2 {
        child.wait_line("took", SOON).await;
    }
    child.kill().await;
    let (_node, clerk) = serve(url).await;
    clerk.handled(0..10).await;
    let handled = clerk.0.lock();
    let again = handled.values().filter(|attempt| **attempt == 2).count();
    assert_eq!((again, handled.len()), (2, 10), "{handled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_loses_nothing_on_redis() {
    let broker = RedisServer::start().await;
    a_killed_member_loses_nothing(&broker.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_loses_nothing_on_rabbitmq() {
    let broker = RabbitMq::start().await;
    a_killed_member_loses_nothing(&broker.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_dialect_has_no_durable_topics() {
    let broker = RedisServer::shared().await;
    let node = Node::builder()
        .dialect(Dialect::CommlibPy)
        .namespace(unique("dialect"))
        .connect(&broker.url())
        .await
        .unwrap();
    let error = OrdersPublisher::new(&node).placed(1).await.unwrap_err();
    assert!(error.to_string().contains("commlib-py"), "{error}");
    let error = OrdersSubscriber::new(&node)
        .placed()
        .group("clerks")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("commlib-py"), "{error}");
}
