//! The examples as people and scripts use them: processes with arguments, lines of output and exit codes.

use std::time::Duration;

use commlib::prelude::*;
use commlib_examples::{CalculatorClient, Slept};
use commlib_tests::{Child, Finished, Program, RabbitMq, RedisServer, Signal, unique};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// For programs that have nothing to finish.
const PROMPT: Duration = Duration::from_secs(30);

const ALL: [(&str, &[&str]); 5] = [
    ("quickstart", &[]),
    ("calculator_server", &[]),
    ("calculator_client", &["add", r#"{"a": 1, "b": 2}"#]),
    ("sensors_publisher", &["front", "1"]),
    ("sensors_subscriber", &["sensors.#"]),
];

/// A broker that a test has for itself: the addresses of the examples are fixed.
struct Broker {
    url: String,
    _redis: Option<RedisServer>,
}

impl Broker {
    async fn redis() -> Self {
        let server = RedisServer::start().await;
        Self {
            url: server.url(),
            _redis: Some(server),
        }
    }

    /// A virtual host of the shared server.
    async fn rabbitmq() -> Self {
        let server = RabbitMq::shared().await;
        let host = unique("examples");
        server.ctl(&["add_vhost", &host]).await;
        server
            .ctl(&["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"])
            .await;
        Self {
            url: server.url().replace("%2f", &host),
            _redis: None,
        }
    }

    async fn program(&self, name: &str, args: &[&str]) -> Program {
        Program::example(name)
            .await
            .args(args)
            .env("COMMLIB_URL", &self.url)
    }

    async fn run(&self, name: &str, args: &[&str]) -> Finished {
        self.program(name, args).await.run(LIMIT).await
    }

    /// Starts an example and waits until it says that it is ready.
    async fn start(&self, name: &str, args: &[&str]) -> Child {
        let mut child = self.program(name, args).await.start();
        assert_eq!(child.next_line(LIMIT).await.as_deref(), Some("ready"));
        child
    }

    async fn call(&self, args: &[&str]) -> Finished {
        self.run("calculator_client", args).await
    }
}

/// What a program says about its failure: one line on standard error, nothing on standard output.
#[track_caller]
fn complaint(finished: &Finished, code: i32) -> &str {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stdout.is_empty(), "{finished:?}");
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:?}")
    };
    line
}

#[track_caller]
fn json_line(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[track_caller]
fn assert_quickstart(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines = [
        "add(1, 2) = 3",
        "div(1, 0) is an error: ByZero",
        "sensors.sonar.front: Sonar { range: 1.5, hfov: 30.0, vfov: 14.2, seq: 0 }",
    ];
    assert_eq!(finished.stdout, lines, "{finished:?}");
    assert!(finished.stderr.is_empty(), "{finished:?}");
}

async fn quickstart_prints_the_same(broker: &Broker) {
    assert_quickstart(&broker.run("quickstart", &[]).await);
}

async fn the_client_tells_how_the_call_ended(broker: &Broker) {
    let one_and_two = r#"{"a": 1, "b": 2}"#;
    let nobody = broker.call(&["add", one_and_two]).await;
    assert!(complaint(&nobody, 4).contains("calculator.add"), "{nobody:?}");

    let server = broker.start("calculator_server", &[]).await;
    for (method, arguments, reply) in [
        ("add", one_and_two, r#"{"c":3}"#),
        ("calculator.add", r#"{"a": 0.5, "b": 1.0}"#, r#"{"c":1.5}"#),
        ("div", r#"{"a": 7, "b": 2}"#, r#"{"c":3.5}"#),
        ("div", r#"{"a": 6, "b": 3}"#, r#"{"c":2}"#),
        ("sleep", r#"{"ms": 10}"#, r#"{"slept":10}"#),
    ] {
        let call = broker.call(&[method, arguments]).await;
        assert_eq!(call.code, Some(0), "{method} {arguments}: {call:?}");
        assert_eq!(call.stdout, [reply], "{method} {arguments}: {call:?}");
        assert!(call.stderr.is_empty(), "{method} {arguments}: {call:?}");
    }

    let by_zero = broker.call(&["div", r#"{"a": 1, "b": 0}"#]).await;
    assert_eq!(json_line(complaint(&by_zero, 1)), json!({"type": "ByZero"}));
    let late = broker
        .call(&["sleep", r#"{"ms": 60000}"#, "--timeout", "300ms"])
        .await;
    assert!(complaint(&late, 3).contains("calculator.sleep"), "{late:?}");
    let unknown = broker.call(&["calculator.root", r#"{"a": 1}"#]).await;
    assert!(complaint(&unknown, 4).contains("calculator.root"), "{unknown:?}");
    for wrong in [r#"{"a": 1, "b": "two"}"#, r#"{"a": 1}"#, "[]", "null"] {
        let refused = broker.call(&["add", wrong]).await;
        assert!(
            complaint(&refused, 5).contains("invalid_argument"),
            "{wrong}: {refused:?}"
        );
    }
    // What JSON has no number for is a failure, not an answer.
    let huge = broker.call(&["add", r#"{"a": 1e308, "b": 1e308}"#]).await;
    complaint(&huge, 5);

    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(LIMIT).await.code(), Some(0));
}

async fn a_server_that_is_told_to_end_finishes_its_calls(broker: &Broker) {
    let server = broker.start("calculator_server", &[]).await;
    let node = Node::connect(&broker.url).await.unwrap();
    let calculator = CalculatorClient::new(&node);
    calculator.sleep(0).await.unwrap();
    let slow = calculator.sleep(2000).into_future();
    // Requests to one method are taken in order: with this reply, the server has the one before.
    let stop = async {
        calculator.sleep(0).await.unwrap();
        server.signal(Signal::SIGTERM);
    };
    // A server that ended before its call would leave it without an answer.
    let (slept, ()) = tokio::join!(biased; slow, stop);
    assert_eq!(slept.unwrap(), Slept { slept: 2000 });
    assert_eq!(server.wait(LIMIT).await.code(), Some(0));
    assert_eq!(server.stdout(), ["ready"]);
    assert!(calculator.add(1.0, 2.0).await.unwrap_err().is_no_responders());
    node.shutdown(LIMIT).await.unwrap();
}

async fn programs_that_are_ready_can_be_told_to_end(broker: &Broker) {
    for (name, args) in [
        ("calculator_server", &[][..]),
        ("sensors_subscriber", &["sensors.#"]),
    ] {
        for _ in 0..5 {
            let child = broker.start(name, args).await;
            child.signal(Signal::SIGTERM);
            assert_eq!(child.wait(PROMPT).await.code(), Some(0), "{name}");
            assert!(child.stderr().is_empty(), "{name}: {:?}", child.stderr());
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Bump {
    hit: bool,
}

#[commlib::topic(prefix = "sensors")]
trait Bumpers {
    async fn bumper(&self, bump: Bump);
}

async fn subscribers_get_what_their_pattern_selects(broker: &Broker) {
    let subscriber = |pattern, count| async move {
        broker
            .start("sensors_subscriber", &[pattern, "--count", count])
            .await
    };
    let front = subscriber("sensors.sonar.front", "3").await;
    let sonar = subscriber("sensors.sonar.*", "5").await;
    let all = subscriber("#", "6").await;
    let level = subscriber("sensors.*", "1").await;

    for (side, count) in [("front", "3"), ("left", "2")] {
        let published = broker.run("sensors_publisher", &[side, count]).await;
        assert_eq!(published.code, Some(0), "{published:?}");
    }
    let node = Node::connect(&broker.url).await.unwrap();
    BumpersPublisher::new(&node)
        .bumper(Bump { hit: true })
        .await
        .unwrap();

    let lines = async |child: Child| {
        assert_eq!(child.wait(LIMIT).await.code(), Some(0));
        assert!(child.stderr().is_empty(), "{:?}", child.stderr());
        let mut messages: Vec<Value> = child
            .stdout()
            .iter()
            .skip(1)
            .map(|line| json_line(line))
            .collect();
        for message in &mut messages {
            let range = message["data"]
                .as_object_mut()
                .and_then(|data| data.remove("range"));
            assert_eq!(
                range.is_some_and(|range| range.is_f64()),
                message["data"]["seq"].is_u64()
            );
        }
        messages
    };
    let reading = |side: &str, seq: u64| json!({"topic": format!("sensors.sonar.{side}"), "data": {"hfov": 30.0, "vfov": 14.2, "seq": seq}});
    let bump = json!({"topic": "sensors.bumper", "data": {"hit": true}});
    let mut expected = vec![reading("front", 0), reading("front", 1), reading("front", 2)];
    assert_eq!(lines(front).await, expected);
    expected.extend([reading("left", 0), reading("left", 1)]);
    assert_eq!(lines(sonar).await, expected);
    expected.push(bump.clone());
    assert_eq!(lines(all).await, expected);
    assert_eq!(lines(level).await, [bump]);
    node.shutdown(LIMIT).await.unwrap();
}

macro_rules! on_brokers {
    ($($test:ident),* $(,)?) => {
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Broker::redis().await).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Broker::rabbitmq().await).await;
            })*
        }
    };
}

on_brokers!(
    quickstart_prints_the_same,
    the_client_tells_how_the_call_ended,
    a_server_that_is_told_to_end_finishes_its_calls,
    programs_that_are_ready_can_be_told_to_end,
    subscribers_get_what_their_pattern_selects,
);

#[tokio::test]
async fn in_one_process_only_the_quickstart_makes_sense() {
    for url in [None, Some("memory://"), Some("memory://examples")] {
        for (name, args) in ALL {
            let program = Program::example(name).await.args(args).env_remove("COMMLIB_URL");
            let program = match url {
                Some(url) => program.env("COMMLIB_URL", url),
                None => program,
            };
            let finished = program.run(LIMIT).await;
            if name == "quickstart" {
                assert_quickstart(&finished);
            } else {
                let line = complaint(&finished, 2);
                assert!(
                    line.contains("COMMLIB_URL") && line.contains("memory://"),
                    "{line}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_unreachable_broker_is_told_at_once() {
    for url in [
        "redis://user:canary@127.0.0.1:1",
        "amqp://user:canary@127.0.0.1:1",
    ] {
        let broker = Broker {
            url: url.to_owned(),
            _redis: None,
        };
        for (name, args) in ALL {
            let finished = broker.run(name, args).await;
            let line = complaint(&finished, 6);
            assert!(line.contains("127.0.0.1:1"), "{line}");
            assert!(!line.contains("canary"), "{line}");
        }
    }
}

#[tokio::test]
async fn wrong_use_is_explained() {
    let broker = Broker {
        url: "redis://127.0.0.1:1".to_owned(),
        _redis: None,
    };
    for (name, args, text) in [
        ("calculator_client", &["add"][..], "<JSON>"),
        ("calculator_client", &["add", "{"], "JSON"),
        ("calculator_client", &["not an address", "{}"], "METHOD"),
        ("calculator_client", &["add", "{}", "--timeout", "2"], "2s"),
        ("sensors_publisher", &["front", "many"], "COUNT"),
        ("sensors_subscriber", &["#.sonar"], "PATTERN"),
        ("sensors_subscriber", &["sensors.#", "--count", "-1"], "-1"),
        ("calculator_server", &["--port"], "--port"),
        ("quickstart", &["now"], "now"),
    ] {
        let finished = broker.run(name, args).await;
        assert_eq!(finished.code, Some(2), "{name} {args:?}: {finished:?}");
        assert!(finished.stdout.is_empty(), "{name} {args:?}: {finished:?}");
        assert!(
            finished.stderr.iter().any(|line| line.contains(text)),
            "{name} {args:?}: {finished:?}"
        );
    }
    for (name, args) in ALL {
        let broker = Broker {
            url: "mqtt://u:canary@localhost".to_owned(),
            _redis: None,
        };
        let finished = broker.run(name, args).await;
        let line = complaint(&finished, 2);
        assert!(line.contains("mqtt") && !line.contains("canary"), "{line}");
        let help = broker.run(name, &["--help"]).await;
        assert_eq!(help.code, Some(0), "{help:?}");
        assert!(
            help.stdout.iter().any(|line| line.contains("COMMLIB_URL")),
            "{help:?}"
        );
    }
}
