//! Made-up scenarios: whatever is done in whatever order, all transports behave as the model says, so all the same.
//!
//! The model is the plain reading of the promises: it knows who serves and listens, and tells from that what each
//! operation returns and what each listener hears. A scenario that fails is made as small as it gets and printed in a
//! form that can be put among the [`fixed`] ones.
//!
//! Each run makes up other scenarios and prints its seed, but `scripts/test` sets the seed, so that a change is judged by
//! what it changes. `COMMLIB_SCENARIOS` is the number of scenarios, `COMMLIB_SCENARIOS_SEED` the seed to begin with.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::{Subscription, TopicSubscriber};
use commlib::{Codec, NodeError, Pattern, ServerHandle};
use commlib_tests::{RabbitMq, RedisServer, eventually, unique};
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::timeout;

/// Limit for what must happen.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("not {0}")]
struct Odd(u32);

#[commlib::rpc_service(name = "play")]
trait Play {
    async fn double(&self, number: u32) -> u32;
    async fn halve(&self, number: u32) -> Result<u32, Odd>;
    async fn panics(&self);
    async fn waits(&self, ctx: &RequestContext);
    #[rpc(oneway)]
    async fn note(&self, number: u32);
}

#[commlib::topic(prefix = "kept")]
trait Kept {
    #[topic("numbers", durable)]
    async fn numbers(&self, number: u32);
}

#[commlib::topic(prefix = "t")]
trait Open {
    #[topic("a")]
    async fn a(&self, number: u32);
    #[topic("a.b")]
    async fn a_b(&self, number: u32);
    #[topic("a.b.c")]
    async fn a_b_c(&self, number: u32);
    #[topic("ab.c")]
    async fn ab_c(&self, number: u32);
    #[topic("x.b")]
    async fn x_b(&self, number: u32);
}

/// What the handlers were told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u32>>>);

impl Told {
    fn sorted(&self) -> Vec<u32> {
        let mut told = self.0.lock().clone();
        told.sort_unstable();
        told
    }
}

impl Play for Told {
    async fn double(&self, number: u32) -> u32 {
        2 * number
    }

    async fn halve(&self, number: u32) -> Result<u32, Odd> {
        if number.is_multiple_of(2) {
            Ok(number / 2)
        } else {
            Err(Odd(number))
        }
    }

    async fn panics(&self) {
        panic!("as the scenario wants it");
    }

    async fn waits(&self, ctx: &RequestContext) {
        ctx.canceled().await;
    }

    async fn note(&self, number: u32) {
        self.0.lock().push(number);
    }
}

impl Kept for Told {
    async fn numbers(&self, number: u32) {
        self.0.lock().push(number);
    }
}

const KEPT: &str = "kept.numbers";
const TOPICS: [&str; 5] = ["t.a", "t.a.b", "t.a.b.c", "t.ab.c", "t.x.b"];
const PATTERNS: [&str; 9] = [
    "t.a", "t.a.b", "t.a.*", "t.*.b", "t.a.#", "*.*.#", "#", "t.a.*.c", KEPT,
];

/// What can be done. Numbers of topics, patterns and listeners are taken modulo how many there are.
#[derive(Debug, Clone, Copy)]
enum Step {
    Serve,
    Shut,
    Call { number: u32, pack: bool },
    Halve { number: u32, pack: bool },
    Panic,
    TimeOut,
    Cancel,
    Note,
    Publish { topic: usize, pack: bool },
    Listen { pattern: usize },
    Leave { listener: usize },
    JoinGroup,
    LeaveGroup,
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    let codec = any::<bool>;
    prop_oneof![
        2 => Just(Step::Serve),
        1 => Just(Step::Shut),
        2 => (0..9_u32, codec()).prop_map(|(number, pack)| Step::Call { number, pack }),
        2 => (0..9_u32, codec()).prop_map(|(number, pack)| Step::Halve { number, pack }),
        1 => Just(Step::Panic),
        1 => Just(Step::TimeOut),
        1 => Just(Step::Cancel),
        2 => Just(Step::Note),
        5 => (0..TOPICS.len(), codec()).prop_map(|(topic, pack)| Step::Publish { topic, pack }),
        3 => (0..PATTERNS.len()).prop_map(|pattern| Step::Listen { pattern }),
        1 => (0..9_usize).prop_map(|listener| Step::Leave { listener }),
        1 => Just(Step::JoinGroup),
        1 => Just(Step::LeaveGroup),
        2 => Just(Step::Keep),
    ]
}

/// What the model knows.
#[derive(Default)]
struct Model {
    serves: bool,
    /// Counts what is sent, so that everything is told apart.
    count: u32,
    notes: BTreeSet<u32>,
    group: bool,
    /// Since the group exists, whether or not a member is there.
    kept: Option<BTreeSet<u32>>,
}

impl Model {
    fn next(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// What a call returns when it reaches the handler, and if nobody serves.
    fn call(&self, served: &str) -> String {
        if self.serves {
            served
        } else {
            "no_responders not_run"
        }
        .to_owned()
    }
}

/// The way of MQTT, AMQP and others to match, level by level.
fn hears(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) | (["#"], _) => true,
        (["*", pattern @ ..], [_, topic @ ..]) => hears(pattern, topic),
        ([wanted, pattern @ ..], [level, topic @ ..]) => wanted == level && hears(pattern, topic),
        _ => false,
    }
}

struct Listener {
    pattern: &'static str,
    subscription: Subscription<u32>,
    expected: Vec<(String, u32)>,
    heard: Vec<(String, u32)>,
}

impl Listener {
    /// Hears what was published.
    async fn catch_up(&mut self) {
        let Self {
            pattern,
            subscription,
            expected,
            heard,
        } = self;
        while heard.len() < expected.len() {
            let next = timeout(SOON, subscription.next()).await;
            let next = next.unwrap_or_else(|_| panic!("`{pattern}` heard {heard:?} of {expected:?}"));
            let received = next.expect("not the end").expect("no gap and no lag");
            heard.push((received.topic.to_string(), received.message));
        }
        assert_eq!(heard, expected, "`{pattern}`");
    }

    async fn leave(mut self) {
        self.catch_up().await;
        let Self {
            pattern,
            subscription,
            ..
        } = &mut self;
        timeout(SOON, subscription.stop()).await.expect("stops in time");
        let more = timeout(SOON, subscription.next()).await.expect("ends in time");
        assert!(more.is_none(), "`{pattern}` heard more: {more:?}");
    }
}

/// Something was published.
fn hear(listeners: &mut [Listener], topic: &str, number: u32) {
    let levels: Vec<&str> = topic.split('.').collect();
    for listener in listeners {
        let pattern: Vec<&str> = listener.pattern.split('.').collect();
        if hears(&pattern, &levels) {
            listener.expected.push((topic.to_owned(), number));
        }
    }
}

fn said<T: Debug, E: Debug>(result: Result<T, CallError<E>>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(CallError::App(error)) => format!("{error:?}"),
        Err(CallError::Status(status)) => {
            format!("{} {}", status.code.as_str(), status.execution.as_str())
        }
        Err(other) => format!("{other:?}"),
    }
}

fn sent(result: Result<(), NodeError>) -> String {
    match result {
        Ok(()) => "()".to_owned(),
        Err(NodeError::Status(status)) => format!("{} {}", status.code.as_str(), status.execution.as_str()),
        Err(other) => format!("{other:?}"),
    }
}

/// Does the steps on one transport and compares with the model as they go.
async fn play(url: &str, steps: &[Step]) {
    let namespace = unique("play");
    let connect = async |codec| {
        let builder = Node::builder().namespace(&namespace).codec(codec);
        let builder = builder.connect_timeout(SOON).operation_timeout(SOON);
        builder.connect(url).await.expect("the broker is there")
    };
    let (node, packing) = (connect(Codec::Json).await, connect(Codec::MessagePack).await);
    let clients = [PlayClient::new(&node), PlayClient::new(&packing)];
    let publishers = [OpenPublisher::new(&node), OpenPublisher::new(&packing)];
    let serving = connect(Codec::Json).await;
    let (noted, kept) = (Told::default(), Told::default());
    let mut model = Model::default();
    let mut server: Option<ServerHandle> = None;
    let mut member: Option<ServerHandle> = None;
    let mut listeners: Vec<Listener> = Vec::new();
    // At the end, the group has a member that takes what was left for it.
    let end = [Step::Serve, Step::JoinGroup];
    for (at, step) in steps.iter().chain(&end).enumerate() {
        let (outcome, expected) = match *step {
            Step::Serve => {
                if server.is_none() {
                    server = Some(
                        serving
                            .serve(PlayServer::new(noted.clone()))
                            .await
                            .expect("serving"),
                    );
                }
                model.serves = true;
                continue;
            }
            Step::Shut => {
                if let Some(server) = server.take() {
                    // It answers what it took, and no note is lost that was accepted.
                    server.shutdown().await.expect("shutting down");
                }
                model.serves = false;
                continue;
            }
            Step::Call { number, pack } => {
                let outcome = said(clients[usize::from(pack)].double(number).await);
                (outcome, model.call(&format!("{}", 2 * number)))
            }
            Step::Halve { number, pack } => {
                let served = if number % 2 == 0 {
                    format!("{}", number / 2)
                } else {
                    format!("Odd({number})")
                };
                let outcome = said(clients[usize::from(pack)].halve(number).await);
                (outcome, model.call(&served))
            }
            Step::Panic => (said(clients[0].panics().await), model.call("internal failed")),
            Step::TimeOut => {
                let limit = Duration::from_millis(if model.serves { 60 } else { 10_000 });
                let outcome = said(clients[0].waits().timeout(limit).await);
                (outcome, model.call("deadline_exceeded unknown"))
            }
            Step::Cancel => {
                // Whatever becomes of it, nothing after it is disturbed.
                drop(timeout(Duration::from_millis(5), clients[0].waits()).await);
                continue;
            }
            Step::Note => {
                let number = model.next();
                let outcome = sent(clients[0].note(number).await.map(|_| ()));
                if model.serves {
                    model.notes.insert(number);
                }
                (outcome, model.call("()"))
            }
            Step::Publish { topic, pack } => {
                let number = model.next();
                let publisher = &publishers[usize::from(pack)];
                let accepted = match topic {
                    0 => publisher.a(number).await,
                    1 => publisher.a_b(number).await,
                    2 => publisher.a_b_c(number).await,
                    3 => publisher.ab_c(number).await,
                    _ => publisher.x_b(number).await,
                };
                hear(&mut listeners, TOPICS[topic], number);
                (format!("{}", accepted.is_ok()), "true".to_owned())
            }
            Step::Listen { pattern } => {
                let pattern = PATTERNS[pattern];
                let wanted = Pattern::new(pattern).expect("a pattern");
                let subscription = TopicSubscriber::new(&serving).pattern(wanted).await;
                listeners.push(Listener {
                    pattern,
                    subscription: subscription.expect("listening"),
                    expected: Vec::new(),
                    heard: Vec::new(),
                });
                continue;
            }
            Step::Leave { listener } => {
                if !listeners.is_empty() {
                    let listener = listener % listeners.len();
                    listeners.remove(listener).leave().await;
                }
                continue;
            }
            Step::JoinGroup => {
                if member.is_none() {
                    let served = serving.serve(KeptHandler::new(kept.clone())).group("readers");
                    member = Some(served.await.expect("joining"));
                    model.kept.get_or_insert_default();
                }
                model.group = true;
                continue;
            }
            Step::LeaveGroup => {
                if let Some(member) = member.take() {
                    member.shutdown().await.expect("leaving");
                }
                model.group = false;
                continue;
            }
            Step::Keep => {
                let number = model.next();
                let accepted = KeptPublisher::new(&node).numbers(number).await;
                if let Some(kept) = &mut model.kept {
                    kept.insert(number);
                }
                // Whoever listens without a group hears it as any other.
                hear(&mut listeners, KEPT, number);
                (format!("{}", accepted.is_ok()), "true".to_owned())
            }
        };
        assert_eq!(outcome, expected, "step {at}, {step:?}");
    }
    for listener in listeners {
        listener.leave().await;
    }
    for (what, told, expected) in [
        ("notes", &noted, model.notes),
        ("kept numbers", &kept, model.kept.unwrap_or_default()),
    ] {
        let expected: Vec<u32> = expected.into_iter().collect();
        eventually(SOON, || async { told.sorted().len() >= expected.len() }).await;
        assert_eq!(told.sorted(), expected, "{what}");
    }
    for node in [node, packing, serving] {
        node.shutdown(SOON).await.expect("shutting down");
    }
}

/// One scenario on each transport.
async fn on_every_transport(brokers: &[(&'static str, String)], steps: &[Step]) -> Result<(), String> {
    for (name, url) in brokers {
        let (url, steps) = (url.clone(), steps.to_vec());
        // In a task, whose panic is the answer.
        let played = tokio::spawn(async move { play(&url, &steps).await }).await;
        played.map_err(|error| {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            format!("{name}: {}", text.unwrap_or("a panic without a text"))
        })?;
    }
    Ok(())
}

/// What failed once.
fn fixed() -> Vec<Vec<Step>> {
    use Step::*;
    vec![
        // Everything once.
        vec![
            Call {
                number: 1,
                pack: false,
            },
            Serve,
            Call {
                number: 1,
                pack: true,
            },
            Halve {
                number: 3,
                pack: true,
            },
            Panic,
            TimeOut,
            Cancel,
            Note,
            Listen { pattern: 4 },
            Publish { topic: 1, pack: true },
            Leave { listener: 0 },
            Keep,
            JoinGroup,
            Keep,
            LeaveGroup,
            Keep,
            Shut,
            Note,
        ],
    ]
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")),
    )
}

#[test]
fn all_transports_do_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (redis, rabbitmq) =
        runtime.block_on(async { (RedisServer::shared().await, RabbitMq::shared().await) });
    let brokers = [
        ("memory", format!("memory://{}", unique("bus"))),
        ("redis", redis.url()),
        ("amqp", rabbitmq.url()),
    ];
    for steps in fixed() {
        runtime.block_on(on_every_transport(&brokers, &steps)).unwrap();
    }
    let seed = number("COMMLIB_SCENARIOS_SEED").unwrap_or_else(rand::random);
    println!("COMMLIB_SCENARIOS_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: number("COMMLIB_SCENARIOS").map_or(20, |cases| cases.try_into().unwrap_or(u32::MAX)),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let failed = runner.run(&prop::collection::vec(step(), 1..20), |steps| {
        let played = runtime.block_on(on_every_transport(&brokers, &steps));
        played.map_err(TestCaseError::fail)
    });
    if let Err(error) = failed {
        panic!("COMMLIB_SCENARIOS_SEED={seed}: {error}");
    }
}
