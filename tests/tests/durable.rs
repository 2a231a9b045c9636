//! Durable topics when brokers and members die for real.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::{RecvError, Subscription};
use commlib::{Dialect, Durability, Limits};
use commlib_tests::{Child, Program, RabbitMq, RedisServer, Reply, eventually, unique};
use parking_lot::Mutex;
use tokio::time::timeout;

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

/// The group and its other messages are as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_forgets_what_is_transient_when_it_ends_and_nothing_else() {
    let broker = RabbitMq::start().await;
    let (away, _) = serve(&broker.url()).await;
    away.shutdown(SOON).await.unwrap();
    let node = Node::connect(&broker.url()).await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    let accepted = publisher.placed(0).transient().await.unwrap();
    assert_eq!(accepted.durability, Durability::BrokerMemory);
    assert!(!accepted.unconfirmed);
    let accepted = publisher.placed(2).transient().unconfirmed().await.unwrap();
    assert!(accepted.unconfirmed, "it waited for the broker");
    assert_eq!(accepted.durability, Durability::None);
    assert!(!publisher.placed(1).unconfirmed().await.unwrap().unconfirmed);
    assert_eq!(place(&node, 1..2).await, Durability::BrokerDisk);
    broker.restart().await;
    let (_node, clerk) = serve(&broker.url()).await;
    clerk.handled(1..2).await;
    assert_eq!(*clerk.0.lock(), BTreeMap::from([(1, 1)]));
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

/// A member in a process of its own, which never gets done with what it took.
async fn member(url: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut child = Program::new(program)
        .args(["--exact", "child", "--nocapture"])
        .env(BROKER, url)
        .name("member")
        .start();
    child.wait_line("ready", SOON).await;
    child
}

/// A member that is killed while it handles messages leaves them to another one.
async fn a_killed_member_loses_nothing(url: &str) {
    let mut child = member(url).await;
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

/// The stream of the topic.
const STREAM: &str = "commlib:stream:orders.placed";

async fn trim(broker: &RedisServer, left: u64) {
    let answer = broker
        .command(&["XTRIM", STREAM, "MAXLEN", "=", &left.to_string()])
        .await;
    assert!(matches!(answer, Reply::Int(1..)), "{answer:?}");
}

/// What a reader gets until there is nothing more: orders, and a `None` for each gap.
async fn hear(orders: &mut Subscription<u64>, until: u64) -> Vec<Option<u64>> {
    let mut heard = Vec::new();
    while heard.last() != Some(&Some(until)) {
        let item = timeout(SOON, orders.next()).await.expect("in time").unwrap();
        heard.push(match item {
            Ok(received) => Some(received.message),
            Err(RecvError::Gap) => None,
            Err(other) => panic!("{other}"),
        });
    }
    heard
}

/// Asking for more than there is says that the last one is handled.
async fn leave(mut orders: Subscription<u64>) {
    orders.stop().await;
    assert_eq!(orders.next().await, None);
}

fn all(orders: std::ops::Range<u64>) -> impl Iterator<Item = Option<u64>> {
    orders.map(Some)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_trimming_overtakes_is_told() {
    let broker = RedisServer::start().await;
    let node = Node::connect(&broker.url()).await.unwrap();
    let join = async || {
        let joining = OrdersSubscriber::new(&node).placed().group("readers");
        joining.buffer(1).await.unwrap()
    };
    // A topic that had messages before the group.
    place(&node, 0..5).await;
    let mut orders = join().await;
    place(&node, 5..40).await;
    assert_eq!(hear(&mut orders, 24).await, all(5..25).collect::<Vec<_>>());
    // What is removed the group has got, but for a part that it is told of once.
    trim(&broker, 15).await;
    assert_eq!(hear(&mut orders, 34).await, all(25..35).collect::<Vec<_>>());
    place(&node, 40..60).await;
    trim(&broker, 20).await;
    let heard = hear(&mut orders, 59).await;
    // One or two were on their way to the reader.
    let taken = heard.iter().position(Option::is_none).expect("a gap");
    assert!(taken <= 2, "{heard:?}");
    let told: Vec<_> = all(35..35 + taken as u64)
        .chain([None])
        .chain(all(40..60))
        .collect();
    assert_eq!(heard, told);
    // So is one that was away, and nothing is left to tell afterwards.
    leave(orders).await;
    place(&node, 60..80).await;
    trim(&broker, 5).await;
    let mut orders = join().await;
    let heard = hear(&mut orders, 79).await;
    assert_eq!(heard, [None].into_iter().chain(all(75..80)).collect::<Vec<_>>());
    place(&node, 80..90).await;
    assert_eq!(hear(&mut orders, 89).await, all(80..90).collect::<Vec<_>>());
    // One that has got everything has missed nothing.
    trim(&broker, 2).await;
    leave(orders).await;
    let mut orders = join().await;
    place(&node, 90..100).await;
    let heard = hear(&mut orders, 99).await;
    assert!(!heard.contains(&None), "{heard:?}");
    assert_eq!(heard.iter().flatten().max(), Some(&99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_told_of_removed_messages_that_a_dead_member_had() {
    let broker = RedisServer::start().await;
    let mut child = member(&broker.url()).await;
    let node = Node::connect(&broker.url()).await.unwrap();
    place(&node, 0..2).await;
    for _ in 0..2 {
        child.wait_line("took", SOON).await;
    }
    child.kill().await;
    place(&node, 2..10).await;
    trim(&broker, 8).await;
    let mut orders = OrdersSubscriber::new(&node)
        .placed()
        .group("clerks")
        .await
        .unwrap();
    let told: Vec<_> = [None].into_iter().chain(all(2..10)).collect();
    assert_eq!(hear(&mut orders, 9).await, told);
}

/// Makes an entry that somebody who is gone took, and gave the last sign of life for so long ago.
async fn left_behind(broker: &RedisServer, node: &Node, order: u64, idle: Duration) {
    place(node, order..order + 1).await;
    let group = "clerks:orders.placed";
    let answer = broker
        .command(&["XREADGROUP", "GROUP", group, "gone", "STREAMS", STREAM, ">"])
        .await;
    assert!(matches!(answer, Reply::Array(_)), "{answer:?}");
    let last = broker.command(&["XPENDING", STREAM, group]).await;
    let Reply::Array(parts) = last else {
        panic!("{last:?}")
    };
    let id = String::from_utf8_lossy(parts[2].bytes().expect("an id")).into_owned();
    let idle = idle.as_millis().to_string();
    let words = ["XCLAIM", STREAM, group, "gone", "0", &id, "IDLE", &idle, "JUSTID"];
    let answer = broker.command(&words).await;
    assert!(matches!(answer, Reply::Array(_)), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_missed_after_the_time_that_the_limits_say() {
    let broker = RedisServer::start().await;
    let join = async |after: Duration| {
        let limits = Limits::new().claim_after(after);
        let node = Node::builder()
            .limits(limits)
            .connect(&broker.url())
            .await
            .unwrap();
        let clerk = Clerk::default();
        let handler = OrdersHandler::new(clerk.clone());
        let handle = node.serve(handler).group("clerks").await.unwrap();
        (node, clerk, handle)
    };
    let minute = Duration::from_secs(60);
    let (node, _, handle) = join(minute).await;
    handle.shutdown().await.unwrap();
    for (order, idle) in [
        (0, minute / 2),
        (1, 30 * minute),
        (2, minute / 2),
        (3, 30 * minute),
    ] {
        left_behind(&broker, &node, order, idle).await;
    }
    // Whoever looks goes through them in their order.
    let (_patient, clerk, _serving) = join(10 * minute).await;
    eventually(SOON, || async { clerk.0.lock().contains_key(&3) }).await;
    assert_eq!(clerk.0.lock().keys().copied().collect::<Vec<_>>(), [1, 3]);
    let (_hasty, clerk, _serving) = join(minute / 3).await;
    eventually(SOON, || async { clerk.0.lock().len() == 2 }).await;
    assert_eq!(clerk.0.lock().keys().copied().collect::<Vec<_>>(), [0, 2]);
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
