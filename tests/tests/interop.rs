//! Real commlib-py 0.13 nodes, in child processes, and ours: each calls the other and hears the other, on Redis and on
//! RabbitMQ. What the peers are is said in `tests/interop/README.md`.

use std::time::{Duration, Instant};

use commlib::prelude::*;
use commlib::topic::Subscription;
use commlib::{Execution, LocalError};
use commlib_tests::{Child, Program, RabbitMq, RedisServer, SharedRabbitMq, eventually, unique};
use serde_json::{Value, json};

/// Long enough for a Python interpreter to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

// ---- contracts -----------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Sum {
    c: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Slept {
    slept: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Text {
    text: String,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum DivError {
    #[error("division by zero")]
    ByZero,
}

#[commlib::rpc_service]
trait Calculator {
    async fn add(&self, a: i64, b: i64) -> Sum;
    async fn div(&self, a: i64, b: i64) -> Result<Sum, DivError>;
    async fn sleep(&self, ms: u64) -> Slept;
    async fn echo(&self, text: String) -> Text;
    async fn reset(&self);
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> Sum {
        Sum { c: a + b }
    }

    async fn div(&self, a: i64, b: i64) -> Result<Sum, DivError> {
        a.checked_div(b).map(|c| Sum { c }).ok_or(DivError::ByZero)
    }

    async fn sleep(&self, ms: u64) -> Slept {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Slept { slept: ms }
    }

    async fn echo(&self, text: String) -> Text {
        Text { text }
    }

    async fn reset(&self) {}
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Reading {
    range: f64,
    seq: u64,
}

#[commlib::topic]
trait Sensors {
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: String, reading: Reading);
}

// ---- brokers and peers ---------------------------------------------------------------------------------------------

/// A broker, and the levels that keep a test apart from the others on a shared one.
struct Broker {
    server: Server,
    namespace: String,
}

enum Server {
    Redis(RedisServer),
    Amqp(SharedRabbitMq),
}

impl Broker {
    async fn redis() -> Self {
        let server = Server::Redis(RedisServer::start().await);
        Self {
            server,
            namespace: unique("interop"),
        }
    }

    async fn amqp() -> Self {
        let server = Server::Amqp(RabbitMq::shared().await);
        Self {
            server,
            namespace: unique("interop"),
        }
    }

    fn url(&self) -> String {
        match &self.server {
            Server::Redis(redis) => redis.url(),
            Server::Amqp(rabbit) => rabbit.url(),
        }
    }

    fn is_redis(&self) -> bool {
        matches!(self.server, Server::Redis(_))
    }

    /// An address at the broker.
    fn at(&self, address: &str) -> String {
        format!("{}.{address}", self.namespace)
    }

    async fn node(&self) -> Node {
        self.connect(&self.url()).await
    }

    /// A node whose clients and publishers are told that their peers run commlib-py.
    async fn dialect_node(&self) -> Node {
        self.connect(&format!("{}?dialect=commlib-py", self.url())).await
    }

    async fn connect(&self, url: &str) -> Node {
        Node::builder()
            .namespace(self.namespace.as_str())
            .connect(url)
            .await
            .expect("a node")
    }

    /// The lists for one reply each of commlib-py: none may stay for ever.
    async fn assert_that_reply_lists_expire(&self) {
        if let Server::Redis(redis) = &self.server {
            for key in redis.keys("rpc-*").await {
                let ttl = redis.command(&["PTTL", &key]).await.int();
                assert!(ttl != -1 && ttl <= 60_000, "{key} would live for {ttl} ms");
            }
        }
    }

    fn peer(&self, program: &str) -> Program {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/peers");
        Program::python()
            .name(program)
            .arg(format!("{folder}/{program}.py"))
            .arg(self.url())
    }
}

/// Starts a peer and waits until it can be talked to.
async fn ready(peer: Program) -> Child {
    let mut child = peer.start();
    child.wait_line("ready", PATIENCE).await;
    child
}

/// The next event of a peer.
async fn event(child: &mut Child) -> Value {
    let line = child
        .next_line(PATIENCE)
        .await
        .expect("a line before the end of the output");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?} is no event: {error}"))
}

async fn events(child: &mut Child, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(event(child).await);
    }
    events
}

async fn shut_down(node: Node) {
    node.shutdown(Duration::from_secs(5))
        .await
        .expect("a clean shutdown");
}

// ---- their client, our server --------------------------------------------------------------------------------------

async fn their_client_calls_our_server(broker: Broker) {
    let node = broker.node().await;
    let _server = node.serve(CalculatorServer::new(Calc)).await.expect("a server");
    let calls = [
        ("add", r#"{"a": 1, "b": 2}"#),
        ("add", r#"{"a": 1, "b": 2, "unknown": {"x": [1]}}"#),
        ("div", r#"{"a": 6, "b": 3}"#),
        ("div", r#"{"a": 1, "b": 0}"#),
        ("add", r#"{"a": 1}"#),
        ("add", r#"{"a": "one", "b": 2}"#),
        ("echo", r#"{"text": "é/\"😀"}"#),
        ("reset", "{}"),
    ];
    let mut client = broker.peer("rpc_client");
    for (method, data) in calls {
        client = client.arg(broker.at(&format!("calculator.{method}"))).arg(data);
    }
    let mut client = ready(client).await;
    let replies = events(&mut client, calls.len()).await;
    for reply in &replies {
        assert_eq!(reply["event"], "reply", "{reply}");
    }
    let data: Vec<&Value> = replies.iter().map(|reply| &reply["data"]).collect();
    assert_eq!(*data[0], json!({"c": 3}));
    assert_eq!(*data[1], json!({"c": 3}), "unknown arguments are ignored");
    assert_eq!(*data[2], json!({"c": 2}));
    assert_eq!(data[3]["error"]["code"], "application");
    assert_eq!(data[3]["error"]["details"], json!({"type": "ByZero"}));
    assert_eq!(data[3]["error"]["message"], "division by zero");
    for refused in [data[4], data[5]] {
        assert_eq!(refused["error"]["code"], "invalid_argument", "{refused}");
        assert_eq!(refused["error"]["execution"], "not_run", "{refused}");
    }
    assert_eq!(*data[6], json!({"text": "é/\"😀"}));
    assert_eq!(
        *data[7],
        json!({}),
        "no result is an empty object, as null is a timeout to it"
    );
    assert!(client.wait(PATIENCE).await.success());
    shut_down(node).await;
}

async fn their_typed_client_gets_an_exception_for_an_error(broker: Broker) {
    let node = broker.node().await;
    let _server = node.serve(CalculatorServer::new(Calc)).await.expect("a server");
    let mut client = broker.peer("rpc_client").arg("--typed");
    if !broker.is_redis() {
        client = client.arg("--correlation-id");
    }
    let div = broker.at("calculator.div");
    let calls = [
        div.as_str(),
        r#"{"a": 6, "b": 3}"#,
        div.as_str(),
        r#"{"a": 1, "b": 0}"#,
    ];
    let mut client = ready(client.args(calls)).await;
    let replies = events(&mut client, 2).await;
    assert_eq!(replies[0]["data"], json!({"c": 2}));
    assert_eq!(
        replies[1]["event"], "raised",
        "an error is no result: {}",
        replies[1]
    );
    assert_eq!(replies[1]["type"], "ValidationError");
    shut_down(node).await;
}

/// A client of theirs that gives up deletes its list; the late reply makes a new one, which must not stay.
async fn nothing_stays_of_a_client_that_gave_up(broker: Broker) {
    let node = broker.node().await;
    let _server = node.serve(CalculatorServer::new(Calc)).await.expect("a server");
    let peer = broker.peer("rpc_client").args(["--timeout", "0.3"]);
    let (sleep, add) = (broker.at("calculator.sleep"), broker.at("calculator.add"));
    let calls = [
        sleep.as_str(),
        r#"{"ms": 700}"#,
        add.as_str(),
        r#"{"a": 1, "b": 2}"#,
    ];
    let mut client = ready(peer.args(calls)).await;
    let replies = events(&mut client, 2).await;
    assert_eq!(replies[0]["event"], "TIMEOUT", "{}", replies[0]);
    assert!(replies[0]["seconds"].as_f64() < Some(0.6), "{}", replies[0]);
    // On RabbitMQ its client takes whatever comes next for the answer, so only Redis says more.
    if let Server::Redis(redis) = &broker.server {
        assert_eq!(replies[1]["data"], json!({"c": 3}), "the server goes on");
        eventually(PATIENCE, || async { !redis.keys("rpc-*").await.is_empty() }).await;
        broker.assert_that_reply_lists_expire().await;
    }
    shut_down(node).await;
}

// ---- our client, their server --------------------------------------------------------------------------------------

async fn our_client_calls_their_server(broker: Broker) {
    let _server = ready(
        broker
            .peer("rpc_server")
            .args(["--service", &broker.at("calculator")]),
    )
    .await;
    let node = broker.dialect_node().await;
    let calculator = CalculatorClient::new(&node);
    assert_eq!(calculator.add(1, 2).await.expect("a sum"), Sum { c: 3 });
    assert_eq!(calculator.div(6, 3).await.expect("a quotient"), Sum { c: 2 });
    let text = "é/\"😀\u{1}";
    assert_eq!(calculator.echo(text.into()).await.expect("an echo").text, text);

    // Its server tells of a failure by an empty object, which is no result of this method.
    let error = calculator
        .div(1, 0)
        .await
        .expect_err("an empty object is no quotient");
    assert_eq!(error.execution(), Execution::Failed, "{error}");
    assert!(
        matches!(error, CallError::Local(LocalError::Decode(_))),
        "{error}"
    );

    // Calls in flight at once; its server on RabbitMQ keeps ten at most.
    let sums = (0..8).map(|n| {
        let call = calculator.add(n, 1000 * n);
        async move { call.await.map(|sum| sum.c) }
    });
    for (n, sum) in (0..).zip(futures_util::future::join_all(sums).await) {
        assert_eq!(sum.expect("a sum"), 1001 * n);
    }
    shut_down(node).await;
    broker.assert_that_reply_lists_expire().await;
}

async fn their_slow_server_times_out_and_its_late_reply_goes_nowhere(broker: Broker) {
    let mut server = ready(
        broker
            .peer("rpc_server")
            .args(["--service", &broker.at("calculator")]),
    )
    .await;
    let node = broker.dialect_node().await;
    let calculator = CalculatorClient::new(&node);
    let timeout = Duration::from_millis(400);
    // On a busy machine the time may be over before the request is on its way.
    for tries in 1.. {
        let started = Instant::now();
        let error = calculator
            .sleep(1200)
            .timeout(timeout)
            .await
            .expect_err("no reply in time");
        assert!(error.is_timeout(), "{error}");
        assert!(started.elapsed() >= timeout);
        if error.execution() == Execution::MayHaveRun {
            break;
        }
        assert!(tries < 20, "{error}");
    }
    assert_eq!(event(&mut server).await["method"], "sleep", "it was executed");

    // Calls that are made before, while and after the late reply comes get their own replies.
    for n in 0..20 {
        let sum = calculator.add(n, 0).await.expect("a sum");
        assert_eq!(sum.c, n);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    shut_down(node).await;
    broker.assert_that_reply_lists_expire().await;
}

async fn nobody_serves(broker: Broker) {
    let node = broker.dialect_node().await;
    let calculator = CalculatorClient::new(&node);
    // Waited for to its end on Redis; RabbitMQ says it at once.
    let timeout = Duration::from_millis(if broker.is_redis() { 500 } else { 10_000 });
    let error = calculator
        .add(1, 2)
        .timeout(timeout)
        .await
        .expect_err("nobody serves it");
    if broker.is_redis() {
        // Its servers leave no sign of their presence there.
        assert!(error.is_timeout(), "{error}");
    } else {
        assert!(error.is_no_responders(), "{error}");
        assert_eq!(error.execution(), Execution::DidNotRun);
    }
    shut_down(node).await;
}

// ---- topics --------------------------------------------------------------------------------------------------------

async fn publish(node: &Node, side: &str, count: u64) {
    let publisher = SensorsPublisher::new(node);
    for seq in 0..count {
        let reading = Reading { range: 1.5, seq };
        publisher
            .sonar(side.into(), reading)
            .await
            .expect("a published reading");
    }
}

async fn their_subscriber_hears_our_publisher(broker: Broker) {
    let topic = broker.at("sensors.sonar.front");
    let mut subscriber = ready(broker.peer("subscriber").args([topic.as_str(), "5", "--typed"])).await;
    let node = broker.dialect_node().await;
    publish(&node, "back", 1).await;
    publish(&node, "front", 5).await;
    for (seq, heard) in (0..).zip(events(&mut subscriber, 5).await) {
        assert_eq!(
            heard["data"],
            json!({"range": 1.5, "seq": seq}),
            "exactly the message: {heard}"
        );
    }
    assert!(subscriber.wait(PATIENCE).await.success());
    shut_down(node).await;
}

async fn their_pattern_subscriber_hears_our_publisher(broker: Broker) {
    let pattern = broker.at("sensors.sonar.*");
    let mut subscriber = ready(broker.peer("subscriber").args([pattern.as_str(), "2"])).await;
    let node = broker.dialect_node().await;
    publish(&node, "front", 1).await;
    publish(&node, "back", 1).await;
    let heard = events(&mut subscriber, 2).await;
    assert_eq!(heard[0]["data"], json!({"range": 1.5, "seq": 0}));
    // Only its pattern subscriber on Redis says on which topic.
    if broker.is_redis() {
        assert_eq!(heard[0]["topic"], broker.at("sensors.sonar.front"));
        assert_eq!(heard[1]["topic"], broker.at("sensors.sonar.back"));
    }
    shut_down(node).await;
}

/// The next `count` messages, as (side, range, seq).
async fn heard(subscription: &mut Subscription<Reading, (String,)>, count: usize) -> Vec<(String, f64, u64)> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = tokio::time::timeout(PATIENCE, subscription.next())
            .await
            .expect("a message in time");
        let received = next.expect("a subscription that goes on").expect("a message");
        heard.push((received.captures.0, received.message.range, received.message.seq));
    }
    heard
}

async fn our_subscriber_hears_their_publisher(broker: Broker) {
    let node = broker.node().await;
    let subscriber = SensorsSubscriber::new(&node);
    let mut exact = subscriber.sonar("front").await.expect("a subscription");
    let mut pattern = subscriber.sonar(Any).await.expect("a subscription");
    let mut publishers = Vec::new();
    for side in ["front", "back"] {
        let topic = broker.at(&format!("sensors.sonar.{side}"));
        publishers.push(
            ready(
                broker
                    .peer("publisher")
                    .args([topic.as_str(), "5", r#"{"range": 2.5, "more": [1]}"#]),
            )
            .await,
        );
    }
    let front: Vec<_> = (0..5).map(|seq| ("front".to_owned(), 2.5, seq)).collect();
    assert_eq!(heard(&mut exact, 5).await, front);
    let mut both = heard(&mut pattern, 10).await;
    both.sort_by(|a, b| a.0.cmp(&b.0).reverse().then(a.2.cmp(&b.2)));
    assert_eq!(both[..5], front);
    assert_eq!(
        both[5..],
        (0..5)
            .map(|seq| ("back".to_owned(), 2.5, seq))
            .collect::<Vec<_>>()
    );
    shut_down(node).await;
}

// ---- each on both brokers ------------------------------------------------------------------------------------------

macro_rules! on_both_brokers {
    ($($test:ident),* $(,)?) => {
        mod redis {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(Broker::redis().await).await;
                }
            )*
        }

        mod amqp {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(Broker::amqp().await).await;
                }
            )*
        }
    };
}

on_both_brokers!(
    their_client_calls_our_server,
    their_typed_client_gets_an_exception_for_an_error,
    nothing_stays_of_a_client_that_gave_up,
    our_client_calls_their_server,
    their_slow_server_times_out_and_its_late_reply_goes_nowhere,
    nobody_serves,
    their_subscriber_hears_our_publisher,
    their_pattern_subscriber_hears_our_publisher,
    our_subscriber_hears_their_publisher,
);

/// Requests of theirs have no time to live; a call of ours that has one must not take them along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_short_call_leaves_their_waiting_request_alone() {
    let broker = Broker::redis().await;
    let Server::Redis(redis) = &broker.server else {
        panic!("not Redis")
    };
    let list = broker.at("calculator.add");
    let theirs = json!({"header": {"reply_to": format!("rpc-{:032x}", 7)}, "data": {"a": 1, "b": 2}});
    redis.command(&["RPUSH", &list, &theirs.to_string()]).await;
    let node = broker.dialect_node().await;
    let call = CalculatorClient::new(&node).add(1, 2);
    let error = call
        .timeout(Duration::from_millis(100))
        .await
        .expect_err("nobody serves it");
    assert!(error.is_timeout(), "{error}");
    // Its clients wait 10 s by default, its servers on RabbitMQ keep requests for 60 s.
    let ttl = redis.command(&["PTTL", &list]).await.int();
    assert!(
        ttl == -1 || ttl > 50_000,
        "their request would be gone after {ttl} ms"
    );
    shut_down(node).await;
}
