//! Durable methods when brokers and servers die for real.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::rpc::{Retry, ServeRpc};
use commlib::{Dialect, Durability, Execution, StatusCode};
use commlib_tests::{Child, Program, RabbitMq, RedisServer, RespClient, eventually, unique};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use parking_lot::Mutex;

/// How long a test waits for what must happen; a server that died is missed after 10 s.
const SOON: Duration = Duration::from_secs(40);
/// Where the child of a test connects to.
const BROKER: &str = "COMMLIB_TEST_BROKER";
/// Of a job that ends the process of its handler, whoever that is.
const POISON: u64 = 666;

#[commlib::rpc_service(name = "mill")]
trait Mill {
    #[rpc(durable)]
    async fn grind(&self, ctx: &RequestContext, job: u64) -> u32;
    #[rpc(durable, oneway)]
    async fn store(&self, ctx: &RequestContext, job: u64);
}

/// Remembers what it handled, the attempt of each, and how often.
#[derive(Clone, Default)]
struct Miller(Arc<Mutex<BTreeMap<u64, Vec<u32>>>>);

impl Miller {
    fn saw(&self, ctx: &RequestContext, job: u64) -> u32 {
        self.0.lock().entry(job).or_default().push(ctx.attempt());
        ctx.attempt()
    }

    async fn handled(&self, jobs: std::ops::Range<u64>) {
        eventually(SOON, || async {
            let handled: Vec<_> = self.0.lock().keys().copied().collect();
            if handled == jobs.clone().collect::<Vec<_>>() {
                Ok(())
            } else {
                Err(handled)
            }
        })
        .await;
    }
}

impl Mill for Miller {
    async fn grind(&self, ctx: &RequestContext, job: u64) -> u32 {
        self.saw(ctx, job)
    }
    async fn store(&self, ctx: &RequestContext, job: u64) {
        self.saw(ctx, job);
    }
}

fn serving(node: &Node, miller: impl Mill) -> ServeRpc {
    node.serve(MillServer::new(miller))
        .concurrency(4)
        .retry_delay(Duration::from_millis(100), Duration::from_secs(1))
}

async fn serve(url: &str) -> (Node, Miller) {
    let node = Node::connect(url).await.expect("the broker is there");
    let miller = Miller::default();
    serving(&node, miller.clone()).await.expect("serving");
    (node, miller)
}

async fn store(node: &Node, jobs: std::ops::Range<u64>) -> Durability {
    let mill = MillClient::new(node);
    let mut durability = Durability::None;
    for job in jobs {
        let accepted = mill.store(job).timeout(SOON).await.expect("accepting");
        durability = accepted.durability;
    }
    durability
}

/// Is the server that dies; only when a test starts it so.
#[tokio::test]
async fn child() {
    #[derive(Clone)]
    struct Stuck;
    impl Mill for Stuck {
        async fn grind(&self, _: &RequestContext, job: u64) -> u32 {
            println!("took {job}");
            if job == POISON {
                std::process::abort();
            }
            std::future::pending().await
        }
        async fn store(&self, ctx: &RequestContext, job: u64) {
            self.grind(ctx, job).await;
        }
    }
    let Ok(url) = std::env::var(BROKER) else { return };
    let node = Node::connect(&url).await.unwrap();
    serving(&node, Stuck).await.unwrap();
    println!("ready");
    std::future::pending().await
}

async fn start_child(url: &str, until: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut child = Program::new(program)
        .args(["--exact", "child", "--nocapture"])
        .env(BROKER, url)
        .name("server")
        .start();
    child.wait_line(until, SOON).await;
    child
}

/// A server that is killed while it handles requests leaves them to another one, which answers those who wait.
async fn a_killed_server_loses_nothing(url: &str) {
    let mut child = start_child(url, "ready").await;
    let caller = Node::connect(url).await.unwrap();
    let mill = MillClient::new(&caller);
    let calls: Vec<_> = (0..4)
        .map(|job| tokio::spawn(mill.grind(job).timeout(2 * SOON).into_future()))
        .collect();
    for _ in 0..4 {
        child.wait_line("took", SOON).await;
    }
    child.kill().await;
    let (_node, miller) = serve(url).await;
    for call in calls {
        assert_eq!(call.await.unwrap().expect("an answer"), 2);
    }
    let handled = miller.0.lock();
    assert_eq!(
        handled.values().flatten().collect::<Vec<_>>(),
        [&2; 4],
        "{handled:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_on_redis() {
    let broker = RedisServer::start().await;
    a_killed_server_loses_nothing(&broker.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_on_rabbitmq() {
    let broker = RabbitMq::start().await;
    a_killed_server_loses_nothing(&broker.url()).await;
}

/// A request that kills whoever handles it is given up before it has killed them all.
async fn a_request_that_kills_is_given_up(url: &str) {
    let caller = Node::connect(url).await.unwrap();
    let poison = MillClient::new(&caller).grind(POISON).timeout(4 * SOON);
    let poison = tokio::spawn(poison.into_future());
    for _ in 0..2 {
        start_child(url, "took").await;
    }
    let (node, miller) = {
        let node = Node::connect(url).await.unwrap();
        let miller = Miller::default();
        serving(&node, miller.clone()).attempts(2).await.unwrap();
        (node, miller)
    };
    let error = poison.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("dead letter"), "{error}");
    assert_eq!(*miller.0.lock(), BTreeMap::new());
    let letters = eventually(SOON, || async {
        let letters = node.dead_letters("mill").list(10).await.unwrap();
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters[0].topic, "mill.grind");
    assert!(letters[0].reason.contains("2 times"), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_is_given_up_on_redis() {
    let broker = RedisServer::start().await;
    a_request_that_kills_is_given_up(&broker.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_is_given_up_on_rabbitmq() {
    let broker = RabbitMq::start().await;
    a_request_that_kills_is_given_up(&broker.url()).await;
}

/// What was accepted before the broker was killed is there after it was started again, and a call that waits gets its
/// answer with its key.
async fn outlives_the_broker(url: &str, kill_and_restart: impl AsyncFnOnce()) -> Durability {
    let caller = Node::connect(url).await.unwrap();
    let durability = store(&caller, 0..50).await;
    let waits = MillClient::new(&caller)
        .grind(50)
        .retry(Retry::times(1000))
        .timeout(2 * SOON);
    let waits = tokio::spawn(waits.into_future());
    // It is there when what came after it is.
    store(&caller, 51..52).await;
    kill_and_restart().await;
    let (_node, miller) = serve(url).await;
    waits.await.unwrap().expect("an answer");
    store(&caller, 52..60).await;
    miller.handled(0..60).await;
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

/// On Redis the broker knows what was answered, also when the server that answered is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_remembers_answers_for_other_servers() {
    let broker = RedisServer::shared().await;
    let connect = async |name: &str| {
        let node = Node::builder().namespace(name).connect(&broker.url()).await;
        node.expect("the broker is there")
    };
    let world = unique("world");
    let (caller, miller) = (connect(&world).await, Miller::default());
    let mill = MillClient::new(&caller);
    for _ in 0..2 {
        let node = connect(&world).await;
        serving(&node, miller.clone()).await.unwrap();
        assert_eq!(mill.grind(1).idempotency_key("once").await.unwrap(), 1);
        node.shutdown(SOON).await.unwrap();
    }
    assert_eq!(miller.0.lock()[&1], [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_nothing_of_what_is_settled() {
    let broker = RedisServer::start().await;
    let (node, miller) = serve(&broker.url()).await;
    store(&node, 0..100).await;
    miller.handled(0..100).await;
    let mut redis = RespClient::connect(broker.port()).await;
    for method in ["store", "grind"] {
        let key = format!("commlib:requests:mill.{method}");
        let deadline = tokio::time::Instant::now() + SOON;
        while redis.command(&["XLEN", &key]).await.int() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{key} has entries");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_dialect_has_no_durable_methods() {
    let broker = RedisServer::shared().await;
    let node = Node::builder()
        .dialect(Dialect::CommlibPy)
        .namespace(unique("dialect"))
        .connect(&broker.url())
        .await
        .unwrap();
    let mill = MillClient::new(&node);
    let errors = [
        mill.grind(1).await.unwrap_err().to_string(),
        mill.store(1).await.unwrap_err().to_string(),
        serving(&node, Miller::default()).await.unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(
            error.contains("commlib-py") && error.contains("durable"),
            "{error}"
        );
    }
}

/// So many requests wait for the servers of a method, and no more. `fill` puts in so many that nobody can read, and `take`
/// removes one of them. Returns where they wait.
async fn is_full_with(
    limit: u64,
    url: &str,
    fill: impl AsyncFnOnce(u64, &str),
    take: impl AsyncFnOnce(&str),
) -> String {
    let world = unique("full");
    let node = Node::builder().namespace(&world).connect(url).await.unwrap();
    let mill = MillClient::new(&node);
    let waiting = format!("{world}.mill.store");
    // The first one makes the place where they wait.
    store(&node, 0..1).await;
    fill(limit - 2, &waiting).await;
    store(&node, 1..2).await;
    for job in [2, 3] {
        let error = mill.store(job).timeout(SOON).await.expect_err("it is full");
        assert_eq!(
            (error.code(), error.execution()),
            (Some(StatusCode::ResourceExhausted), Execution::DidNotRun),
            "{error}"
        );
    }
    take(&waiting).await;
    store(&node, 4..5).await;
    let error = mill.store(5).timeout(SOON).await.expect_err("it is full again");
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
    // Another method has a place of its own.
    let error = mill
        .grind(1)
        .timeout(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert_ne!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_are_bounded_in_process() {
    let url = unique("memory://full");
    let (world, miller) = (unique("world"), Miller::default());
    let node = Node::builder().namespace(&world).connect(&url).await.unwrap();
    store(&node, 0..10_000).await;
    let error = MillClient::new(&node)
        .store(10_000)
        .await
        .expect_err("it is full");
    assert_eq!(
        (error.code(), error.execution()),
        (Some(StatusCode::ResourceExhausted), Execution::DidNotRun),
        "{error}"
    );
    serving(&node, miller.clone()).await.unwrap();
    miller.handled(0..10_000).await;
    store(&node, 10_000..10_001).await;
    miller.handled(0..10_001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_are_bounded_on_redis() {
    let broker = RedisServer::start().await;
    let fill = async |many: u64, address: &str| {
        let script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'm', 'x') end";
        let (key, many) = (format!("commlib:requests:{address}"), many.to_string());
        broker.command(&["EVAL", script, "1", &key, &many]).await;
    };
    let take = async |address: &str| {
        let script = "local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1] \
                      return redis.call('XDEL', KEYS[1], first)";
        let key = format!("commlib:requests:{address}");
        assert_eq!(broker.command(&["EVAL", script, "1", &key]).await.int(), 1);
    };
    is_full_with(100_000, &broker.url(), fill, take).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_are_bounded_on_rabbitmq() {
    let broker = RabbitMq::shared().await;
    let url = broker.url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = |address: &str| lapin::types::ShortString::from(format!("commlib.requests.{address}"));
    let fill = async |many: u64, address: &str| {
        for _ in 0..many {
            let (queue, options) = (queue(address), BasicPublishOptions::default());
            let properties = lapin::BasicProperties::default();
            channel
                .basic_publish("".into(), queue, options, b"x", properties)
                .await
                .unwrap();
        }
        eventually(SOON, || async {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let declare = channel.queue_declare(queue(address), options, FieldTable::default());
            let waiting = declare.await.unwrap().message_count();
            if u64::from(waiting) == many + 1 {
                Ok(())
            } else {
                Err(waiting)
            }
        })
        .await;
    };
    let take = async |address: &str| {
        let get = channel.basic_get(queue(address), BasicGetOptions { no_ack: true });
        assert!(get.await.unwrap().is_some());
    };
    let place = is_full_with(100_000, &url, fill, take).await;
    let delete = channel.queue_delete(queue(&place), QueueDeleteOptions::default());
    delete.await.unwrap();
}
