//! What only Redis can do to us.

use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::{ConnectionState, Execution, StatusCode};
use commlib_tests::{Direction, Flow, RedisNode, RedisServer, eventually};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, interval, timeout};
use tracing_subscriber::util::SubscriberInitExt;

use crate::load::{Load, Numbers};
use crate::world::{
    Broker, JobClient, NewsPublisher, NewsSubscriber, Record, SOON, World, answered, ending, in_flight, serve,
};

const SHORT: Duration = Duration::from_millis(800);

/// A server that lives as long as the world, and a way to it.
async fn start(args: &[&str]) -> (World, RedisNode) {
    let server = RedisServer::start_with(args).await;
    let broker = (*server).clone();
    (World::on(Broker::Redis(server)), broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_unavailable_and_not_stormed() {
    let (world, broker) = start(&[]).await;
    let (_node, _, record) = world.serve(4).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    answered(&job).await;
    broker.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let commands = async || {
        let info = broker.command(&["INFO", "stats"]).await;
        let info = String::from_utf8_lossy(info.bytes().unwrap_or_default()).into_owned();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.expect("the statistics")
            .trim()
            .parse::<u64>()
            .expect("a number")
    };
    let (before, begun) = (commands().await, Instant::now());
    let calls: Vec<_> = (1..=50)
        .map(|number| tokio::spawn(job.run(number).timeout(SHORT).into_future()))
        .collect();
    for (number, call) in (1..).zip(calls) {
        let result = timeout(SOON, call).await.expect("in time").expect("no panic");
        let text = format!("{result:?}");
        let (code, execution) = ending(result);
        assert!(
            [StatusCode::Unavailable, StatusCode::DeadlineExceeded].contains(&code),
            "{text}"
        );
        assert_eq!(execution, Execution::DidNotRun, "{text}");
        assert!(text.contains("READONLY"), "{text}");
        assert_eq!(record.runs(number), 0);
    }
    assert!(
        begun.elapsed() < SHORT + Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let asked = commands().await - before;
    assert!(
        asked < 4000,
        "{asked} commands for 50 calls that could not be made"
    );
    let error = job.note(1).timeout(SHORT).await.expect_err("it is read-only");
    assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
    broker.command(&["REPLICAOF", "NO", "ONE"]).await;
    answered(&job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_refuses_requests_and_loses_no_place() {
    let (world, broker) = start(&["--maxmemory-policy", "noeviction"]).await;
    let (_node, _, record) = world.serve(2).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    answered(&job).await;
    let held: Vec<_> = (1..=2)
        .map(|number| tokio::spawn(job.hold(number).timeout(Duration::from_secs(3)).into_future()))
        .collect();
    eventually(SOON, || async { record.numbers() == 3 }).await;
    broker.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = job.run(3).timeout(SOON).await;
    assert_eq!(
        ending(error),
        (StatusCode::ResourceExhausted, Execution::DidNotRun)
    );
    // Topics need no memory, and the replies of what runs already are refused by the broker.
    NewsPublisher::new(&node).item(1).await.expect("a topic");
    record.gate.add_permits(2);
    for held in held {
        let (code, execution) = ending(held.await.expect("no panic"));
        assert_eq!(
            (code, execution),
            (StatusCode::DeadlineExceeded, Execution::MayHaveRun)
        );
    }
    broker.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    answered(&job).await;
    let held: Vec<_> = (11..=12)
        .map(|n| tokio::spawn(job.hold(n).timeout(SOON).into_future()))
        .collect();
    eventually(SOON, || async { record.runs(11) + record.runs(12) == 2 }).await;
    record.gate.add_permits(2);
    for held in held {
        held.await.expect("no panic").expect("a reply");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_takes_its_limit_and_not_one_more() {
    const LIMIT: i64 = 10_000;
    let (world, broker) = start(&[]).await;
    let (_node, _, record) = world.serve(1).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    let held = tokio::spawn(job.hold(1).timeout(SOON).into_future());
    eventually(SOON, || async { record.runs(1) == 1 }).await;
    let list = world.address("job.note");
    // The first says that the queue is served and has room, so that the next need not ask.
    job.note(2).await.expect("there is room");
    let mut fill = vec!["RPUSH".to_owned(), list.clone()];
    fill.extend((0..LIMIT - 3).map(|_| "x".to_owned()));
    broker.command(&fill).await;
    for length in [LIMIT - 1, LIMIT] {
        job.note(3).await.expect("there is room");
        assert_eq!(broker.command(&["LLEN", &list]).await.int(), length);
    }
    for _ in 0..3 {
        let error = job.note(4).await.expect_err("it is full");
        assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
        assert_eq!(error.execution(), Execution::DidNotRun);
    }
    assert_eq!(broker.command(&["LLEN", &list]).await.int(), LIMIT);
    record.gate.add_permits(1);
    held.await.expect("no panic").expect("a reply");
    eventually(SOON, || async {
        broker.command(&["LLEN", &list]).await.int() == 0
    })
    .await;
    job.note(5).await.expect("there is room again");
    eventually(SOON, || async { record.runs(5) == 1 }).await;
    assert_eq!(record.runs(4), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_come_back_and_gaps_are_told() {
    let (world, broker) = start(&[]).await;
    let (server, _, record) = world.serve(8).await;
    let node = world.node().await;
    answered(&JobClient::new(&node)).await;
    let subscription = NewsSubscriber::new(&server).item().await.expect("subscribing");
    let numbers = Numbers::start(NewsPublisher::new(&node), vec![subscription]);
    numbers.heard_by_all().await;
    let load = Load::start(std::slice::from_ref(&node), 16, 1);
    load.succeeds(50).await;
    for round in 0..10 {
        for kind in ["writer", "inbox", "consumer", "subscriber"] {
            let clients = broker.command(&["CLIENT", "LIST"]).await;
            let clients = String::from_utf8_lossy(clients.bytes().unwrap_or_default()).into_owned();
            let named = format!("name=commlib:{kind}:");
            for line in clients.lines().filter(|line| line.contains(&named)) {
                let id = line
                    .trim_start_matches("id=")
                    .split(' ')
                    .next()
                    .unwrap_or_default();
                broker.command(&["CLIENT", "KILL", "ID", id]).await;
            }
            if round % 2 == 0 {
                load.succeeds(20).await;
            }
        }
        load.succeeds(20).await;
    }
    numbers.check().await;
    load.check("CLIENT KILL", &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_taken_away_come_back() {
    let (world, broker) = start(&[]).await;
    let (_server, _, record) = world.serve(8).await;
    let node = world.node().await;
    answered(&JobClient::new(&node)).await;
    let load = Load::start(std::slice::from_ref(&node), 16, 1);
    load.succeeds(50).await;
    for _ in 0..10 {
        for pattern in ["commlib:reply:*", "commlib:presence:*", &world.address("*")] {
            for key in broker.keys(pattern).await {
                broker.command(&["UNLINK", &key]).await;
            }
        }
        broker.command(&["SCRIPT", "FLUSH"]).await;
        // A server says every three seconds that it is there.
        load.succeeds(20).await;
    }
    // Everything at once, and everything that is kept about us.
    broker.command(&["FLUSHALL"]).await;
    load.succeeds(50).await;
    load.check("UNLINK", &record).await;
    let left = broker.keys("*").await;
    assert!(left.len() <= 10, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_while_a_node_runs_is_told_and_never_shown() {
    let (world, broker) = start(&[]).await;
    broker.command(&["CONFIG", "SET", "requirepass", "canary"]).await;
    let url = format!("redis://:canary@127.0.0.1:{}", broker.port());
    let node = world
        .builder()
        .connect(&url)
        .await
        .expect("the password is right");
    let record = crate::world::Record::new();
    let _server = crate::world::serve(&node, &record, 4).await;
    let job = JobClient::new(&node);
    answered(&job).await;
    let mut admin = broker.client().await;
    admin.command(&["AUTH", "canary"]).await;
    admin.command(&["CONFIG", "SET", "requirepass", "another"]).await;
    admin
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    let mut state = node.state();
    let refused = |state: &ConnectionState| matches!(state, ConnectionState::Connecting { reason, .. } if reason.contains("refused"));
    timeout(SOON, state.wait_for(refused))
        .await
        .expect("it is told")
        .expect("the node lives");
    let error = job.run(1).timeout(SHORT).await.expect_err("nobody lets it in");
    assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
    for shown in [
        format!("{:?}", *node.state().borrow()),
        format!("{node:?}"),
        error.to_string(),
    ] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    admin.command(&["CONFIG", "SET", "requirepass", "canary"]).await;
    answered(&job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_that_are_revoked_are_told_and_come_back() {
    let (world, broker) = start(&[]).await;
    let set = async |rules: &[&str]| {
        let words = [&["ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*"], rules].concat();
        broker.command(&words).await;
    };
    set(&["+@all"]).await;
    let url = format!("redis://limited:pw@127.0.0.1:{}", broker.port());
    let (server, client) = (
        world.builder().connect(&url).await.expect("connecting"),
        world.builder().connect(&url).await.expect("connecting"),
    );
    let record = crate::world::Record::new();
    let _server = crate::world::serve(&server, &record, 4).await;
    let job = JobClient::new(&client);
    answered(&job).await;
    // Callers: told at once, typed, and nothing runs.
    set(&["-rpush", "-publish"]).await;
    let begun = Instant::now();
    let error = job.run(1).timeout(SOON).await;
    assert_eq!(
        ending(error),
        (StatusCode::PermissionDenied, Execution::DidNotRun)
    );
    let error = NewsPublisher::new(&client).item(1).await.expect_err("it may not");
    assert_eq!(error.code(), Some(StatusCode::PermissionDenied), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    set(&["+@all"]).await;
    answered(&job).await;
    // Servers: they try on and come back by themselves.
    set(&["-blmpop", "-lmpop", "-blpop"]).await;
    broker
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    eventually(SOON, || async {
        let error = job.run(2).timeout(SHORT).await.err()?;
        (error.execution() == Execution::MayHaveRun || error.is_timeout() || error.is_no_responders())
            .then_some(())
    })
    .await;
    set(&["+@all"]).await;
    answered(&job).await;
    assert_eq!(in_flight(&client), 0);
}

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On one thread, so that all of the node logs there.
async fn warnings_at_connect(url: &str) -> String {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("commlib=warn")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = subscriber.set_default();
    let node = Node::connect(url).await.expect("the broker is there");
    node.shutdown(SOON).await.expect("closing");
    let text = logged.0.lock().clone();
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn a_broker_that_evicts_is_warned_about_at_connect() {
    let evicts =
        RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let keeps = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]).await;
    let warned = warnings_at_connect(&evicts.url()).await;
    assert!(
        warned.contains("allkeys-lru") && warned.contains("noeviction"),
        "{warned:?}"
    );
    assert_eq!(warnings_at_connect(&keeps.url()).await, "");
    // A user who may not look at the settings of the broker is warned all the same, or told that nobody knows.
    for (rules, word) in [
        (&["-config"][..], "allkeys-lru"),
        (&["-config", "-info"], "cannot tell"),
    ] {
        let words = [
            &["ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all"],
            rules,
        ]
        .concat();
        evicts.command(&words).await;
        let url = format!("redis://limited:pw@127.0.0.1:{}", evicts.port());
        let warned = warnings_at_connect(&url).await;
        assert!(warned.contains(word), "{rules:?}: {warned:?}");
    }
}

/// A network that forgot a connection takes all that is written to it. Whoever writes on must notice that nothing comes
/// back, on both sides, and be back soon after the network is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_on_does_not_hide_a_dead_connection() {
    // Long enough for tries to reconnect to be lost in it as well.
    const HOLE: Duration = Duration::from_secs(6);
    // A try that was lost in the hole takes up to five seconds, and the next one up to two more.
    const BACK: Duration = Duration::from_secs(20);
    let (world, _broker) = start(&[]).await;
    let (proxy, url) = world.proxy().await;
    let serving = world.builder().connect(&url).await.expect("the broker is there");
    let _server = serve(&serving, &Record::new(), 16).await;
    let node = world.builder().connect(&url).await.expect("the broker is there");
    let job = JobClient::new(&node);
    answered(&job).await;
    for direction in [Direction::ToBroker, Direction::ToClient] {
        proxy.set_one(direction, Flow::Swallow);
        let begun = Instant::now();
        let mut ticks = interval(Duration::from_millis(50));
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                now = ticks.tick() => {
                    if now > begun + HOLE {
                        proxy.set(Flow::Pass);
                    }
                    assert!(now < begun + HOLE + BACK, "{direction:?}: no call succeeded after the hole");
                    calls.push(job.run(1).timeout(SHORT).into_future());
                }
                Some(result) = calls.next() => if result.is_ok() && begun.elapsed() > HOLE {
                    break;
                },
            }
        }
    }
}
