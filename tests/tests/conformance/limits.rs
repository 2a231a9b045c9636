//! The limits of a node: just below, at and just above each of them.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{
    Address, CallError, Codec, Execution, Limits, LocalError, NoError, NodeError, Pattern, Status, StatusCode,
};
use commlib_tests::eventually;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::contract::{
    ProbeClient, Reading, Sensors, SensorsHandler, SensorsPublisher, SensorsSubscriber, Side, Sum, nested,
};
use crate::world::{SOON, World, serve_on};

/// The status of a call that a peer refused because of the limit of this name.
fn refused(error: CallError<NoError>, code: StatusCode, limit: &str) -> Status {
    let CallError::Status(status) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (status.code, status.execution),
        (code, Execution::DidNotRun),
        "{status}"
    );
    assert!(status.message.contains(&format!("`Limits::{limit}`")), "{status}");
    status
}

/// Whether this side refused to send because of the limit of this name.
fn not_sent<E: std::fmt::Debug>(error: &CallError<E>, name: &str) -> bool {
    assert_eq!(error.execution(), Execution::DidNotRun);
    matches!(error, CallError::Local(LocalError::Limit { setting, .. }) if *setting == name)
}

pub async fn a_body_may_be_smaller_in_one_direction(world: World) {
    let _served = world.serve().await;
    let probe = |limits| async { ProbeClient::new(&world.connect(world.builder().limits(limits)).await) };
    let narrow_in = probe(Limits::new().body_in(1000)).await;
    for (size, fits) in [(997, true), (998, true), (999, false)] {
        match narrow_in.bytes(size).await {
            Ok(text) => assert!(fits && text.len() == size),
            Err(CallError::Status(status)) => {
                assert!(!fits, "{size}: {status}");
                assert_eq!(
                    (status.code, status.execution),
                    (StatusCode::ResourceExhausted, Execution::Failed)
                );
                assert!(status.message.contains("`Limits::body_in`"), "{status}");
            }
            Err(error) => panic!("{size}: {error:?}"),
        }
    }
    // What it sends may be larger.
    assert!(narrow_in.note("x".repeat(5000)).await.is_ok());
    let narrow_out = probe(Limits::new().body_out(1000)).await;
    assert_eq!(narrow_out.bytes(5000).await.unwrap().len(), 5000);
    // {"text":"…"} has eleven bytes around the text.
    for (size, fits) in [(988, true), (989, true), (990, false)] {
        match narrow_out.note("x".repeat(size)).await {
            Ok(_) => assert!(fits, "{size}"),
            Err(NodeError::Local(error)) => {
                assert!(!fits, "{size}: {error}");
                assert!(
                    matches!(
                        error,
                        LocalError::TooLarge {
                            size: 1001,
                            limit: 1000,
                            ..
                        }
                    ),
                    "{error}"
                );
                assert!(error.to_string().contains("`Limits::body_out`"), "{error}");
            }
            Err(error) => panic!("{size}: {error:?}"),
        }
    }
}

pub async fn too_many_headers_are_refused_on_both_sides(world: World) {
    let narrow = Limits::new().headers(8);
    let served = serve_on(world.connect(world.builder().limits(narrow.clone())).await, 4).await;
    let wide = ProbeClient::new(&world.node().await);
    let narrow = ProbeClient::new(&world.connect(world.builder().limits(narrow)).await);
    // The context of the trace is a header, too.
    for count in [7, 8, 9] {
        for probe in [&wide, &narrow] {
            let mut call = probe.add(1, 2);
            for header in 1..count {
                call = call.header(format!("name-{header}"), "value");
            }
            match call.await {
                Ok(sum) => assert!(count <= 8 && sum == Sum { c: 3 }),
                Err(error) if std::ptr::eq(probe, &raw const narrow) => {
                    assert!(count == 9 && not_sent(&error, "headers"), "{error:?}");
                }
                Err(error) => {
                    assert_eq!(count, 9, "{error:?}");
                    refused(error, StatusCode::ResourceExhausted, "headers");
                }
            }
        }
    }
    assert_eq!(served.seen.runs(), 4);
}

pub async fn headers_that_are_too_large_are_refused_on_both_sides(world: World) {
    let served = world.serve().await;
    let default = ProbeClient::new(&world.node().await);
    let wide = Limits::new().header_bytes(32 * 1024);
    let wide = ProbeClient::new(&world.connect(world.builder().limits(wide)).await);
    // The limit is 16 KiB. The context of the trace, `traceparent`, has 66 bytes.
    for (size, fits) in [(16_383, true), (16_384, true), (16_385, false)] {
        for (probe, is_default) in [(&default, true), (&wide, false)] {
            let first = "x".repeat(8 * 1024);
            let rest = "\"".repeat(size - first.len() - 4 - 66);
            match probe.add(1, 2).header("a1", first).header("b2", rest).await {
                Ok(sum) => assert!(fits && sum == Sum { c: 3 }, "{size}"),
                Err(error) if is_default => assert!(!fits && not_sent(&error, "header_bytes"), "{error:?}"),
                Err(error) => {
                    assert!(!fits, "{size}: {error:?}");
                    refused(error, StatusCode::ResourceExhausted, "header_bytes");
                }
            }
        }
    }
    assert_eq!(served.seen.runs(), 4);
}

pub async fn very_many_headers_cost_a_server_no_time(world: World) {
    let served = world.serve().await;
    let raw = world.raw().await;
    let begin = Instant::now();
    raw.push_headers(&world.address("probe.add"), 50_000).await;
    // One that compares each with each takes a minute for it.
    assert_eq!(
        ProbeClient::new(&world.node().await).add(1, 2).await.unwrap(),
        Sum { c: 3 }
    );
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(served.seen.runs(), 1);
}

pub async fn nesting_over_the_limit_is_refused(world: World) {
    let served = world.serve().await;
    let (raw, add) = (world.raw().await, world.address("probe.add"));
    for depth in [62, 63, 64] {
        // Within the object of the arguments.
        let body = json!({"a": 1, "b": 2, "unknown": nested(depth)}).to_string();
        let answer = raw.call(&add, body.as_bytes()).await;
        if depth == 64 {
            assert_eq!(answer.error.as_deref(), Some("invalid_argument"), "{answer:?}");
            assert_eq!(answer.execution, "not_run", "{answer:?}");
            assert!(answer.message.contains("`Limits::depth`"), "{answer:?}");
        } else {
            assert_eq!(answer.error, None, "{depth}");
        }
    }
    assert_eq!(served.seen.runs(), 2);
    for codec in [Codec::Json, Codec::MessagePack] {
        let builder = world.builder().codec(codec).limits(Limits::new().depth(20));
        let probe = ProbeClient::new(&world.connect(builder).await);
        for depth in [19, 20, 21, 90] {
            match probe.nested(depth).await {
                Ok(value) => assert!(depth <= 20 && value == nested(depth), "{depth}"),
                Err(error) => {
                    assert!(depth > 20, "{depth}: {error:?}");
                    assert!(
                        matches!(error, CallError::Local(LocalError::Decode(_))),
                        "{error:?}"
                    );
                    // It came back, so it ran.
                    assert_eq!(error.execution(), Execution::Failed);
                    assert!(error.to_string().contains("`Limits::depth`"), "{error}");
                }
            }
        }
    }
}

pub async fn topic_messages_over_a_limit_are_notices(world: World) {
    let node = world
        .connect(
            world
                .builder()
                .limits(Limits::new().depth(20).headers(3).body_in(1000)),
        )
        .await;
    let mut values = TopicSubscriber::new(&node)
        .pattern::<Value>(Pattern::new("sensors.bumper").unwrap())
        .await
        .unwrap();
    let (raw, topic) = (world.raw().await, world.address("sensors.bumper"));
    let other = world.node().await;
    let publisher = SensorsPublisher::new(&other);
    let mut next = async || {
        timeout(SOON, values.next())
            .await
            .expect("in time")
            .expect("not the end")
    };
    for depth in [19, 20, 21] {
        raw.publish(&topic, nested(depth).to_string().as_bytes()).await;
        match next().await {
            Ok(received) => assert!(depth <= 20 && received.message == nested(depth)),
            Err(RecvError::Decode { reason, .. }) => {
                assert!(
                    depth == 21 && reason.contains("`Limits::depth`"),
                    "{depth}: {reason}"
                );
            }
            Err(error) => panic!("{depth}: {error}"),
        }
    }
    for headers in [2, 3, 4] {
        let mut publish = publisher.bumper(Reading { seq: 1 });
        for header in 1..headers {
            publish = publish.header(format!("name-{header}"), "value");
        }
        publish.await.unwrap();
        match next().await {
            Ok(received) => assert!(headers <= 3 && received.headers.len() == headers),
            Err(RecvError::Decode { reason, .. }) => {
                assert!(
                    headers == 4 && reason.contains("`Limits::headers`"),
                    "{headers}: {reason}"
                );
            }
            Err(error) => panic!("{headers}: {error}"),
        }
    }
    for size in [999, 1000, 1001] {
        raw.publish(&topic, format!("\"{}\"", "x".repeat(size - 2)).as_bytes())
            .await;
        match next().await {
            Ok(received) => assert!(size <= 1000 && received.message.as_str().unwrap().len() == size - 2),
            Err(RecvError::Lagged(1)) => assert_eq!(size, 1001),
            Err(error) => panic!("{size}: {error}"),
        }
    }
}

pub async fn a_server_runs_no_more_at_once_than_its_node_says(world: World) {
    let prober = crate::contract::Prober::default();
    let seen = std::sync::Arc::clone(&prober.seen);
    let node = world
        .connect(world.builder().limits(Limits::new().concurrency(2)))
        .await;
    node.serve(crate::contract::ProbeServer::new(prober))
        .await
        .unwrap();
    let probe = ProbeClient::new(&world.node().await);
    let mut calls = Vec::new();
    for running in [1, 2] {
        calls.push(tokio::spawn(probe.wait(true).into_future()));
        eventually(SOON, || async { seen.waiting() == running }).await;
        if running == 1 {
            probe.add(1, 1).await.unwrap();
        }
    }
    let error = probe
        .add(1, 1)
        .timeout(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(error.is_timeout() && seen.runs() == 1, "{error}");
    seen.open();
    for call in calls {
        assert!(call.await.unwrap().unwrap());
    }
    probe.add(1, 1).await.unwrap();
}

/// How many handlers of messages run at once.
#[derive(Clone)]
pub struct Gauge {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    /// One permit per handler that may end.
    gate: Arc<Semaphore>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            running: Arc::default(),
            most: Arc::default(),
            done: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Gauge {
    /// What a handler does.
    pub async fn run(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    /// Holds it against handlers of which three may run at once.
    pub async fn reads_at_most_three(&self, publish: impl AsyncFn(u64)) {
        let mut sent = 0;
        for count in [2, 3, 4, 40] {
            for _ in 0..count {
                publish(sent).await;
                sent += 1;
            }
            let running = count.min(3);
            eventually(SOON, || async {
                let now = self.running.load(Ordering::SeqCst);
                if now == running { Ok(()) } else { Err(now) }
            })
            .await;
            if count > 3 {
                // Time for one too many.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.gate.add_permits(count);
            eventually(SOON, || async { self.done.load(Ordering::SeqCst) as u64 == sent }).await;
            assert_eq!(self.most.load(Ordering::SeqCst), running);
        }
    }
}

impl Sensors for Gauge {
    async fn sonar(&self, _ctx: &MessageContext, _side: Side, _reading: Reading) {}
    async fn level(&self, _side: Side, _room: u16, _reading: Reading) {}
    async fn bumper(&self, _hit: Reading) {
        self.run().await;
    }
}

pub async fn handlers_of_topics_run_no_more_at_once_than_they_say(world: World) {
    let publisher = SensorsPublisher::new(&world.node().await);
    for group in [None, Some("loggers")] {
        let (gauge, node) = (Gauge::default(), world.node().await);
        let mut handler = node.serve(SensorsHandler::new(gauge.clone())).concurrency(3);
        if let Some(group) = group {
            handler = handler.group(group);
        }
        let handle = handler.await.unwrap();
        gauge
            .reads_at_most_three(async |seq| publisher.bumper(Reading { seq }).await.map(drop).unwrap())
            .await;
        handle.shutdown().await.unwrap();
    }
}

#[commlib::rpc_service(name = "jobs")]
pub trait Jobs {
    #[rpc(durable, oneway)]
    async fn begin(&self, number: u64);
}

impl Jobs for Gauge {
    async fn begin(&self, _number: u64) {
        self.run().await;
    }
}

pub async fn servers_of_durable_methods_run_no_more_at_once_than_they_say(world: World) {
    let (gauge, node) = (Gauge::default(), world.node().await);
    let server = node.serve(JobsServer::new(gauge.clone())).concurrency(3);
    let server = server.await.unwrap();
    let jobs = JobsClient::new(&world.node().await);
    gauge
        .reads_at_most_three(async |number| jobs.begin(number).await.map(drop).unwrap())
        .await;
    server.shutdown().await.unwrap();
}

pub async fn a_reader_keeps_no_more_than_its_node_says(world: World) {
    let builder = world.builder().limits(Limits::new().topic_buffer(5));
    let node = world.connect(builder).await;
    let mut readings = SensorsSubscriber::new(&node).bumper().await.unwrap();
    let mut watching = SensorsSubscriber::new(&node).bumper().buffer(100).await.unwrap();
    let publisher = SensorsPublisher::new(&node);
    for seq in 0..50 {
        publisher.bumper(Reading { seq }).await.unwrap();
    }
    for _ in 0..50 {
        timeout(SOON, watching.next()).await.unwrap().unwrap().unwrap();
    }
    let (mut lost, mut last) = (0, None);
    while last != Some(49) {
        match timeout(SOON, readings.next()).await.unwrap().unwrap() {
            Ok(received) => {
                // Nothing is lost without being told.
                assert_eq!(received.message.seq, last.map_or(0, |last| last + 1) + lost);
                (lost, last) = (0, Some(received.message.seq));
            }
            Err(RecvError::Lagged(messages)) => {
                assert!(messages >= 1);
                lost += messages;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(
            lost > 0 || last >= Some(1),
            "the first of 50 messages was still there"
        );
    }
}

pub async fn addresses_have_a_longest_length(world: World) {
    let node = world.node().await;
    let around = world.address("").len();
    for (length, fits) in [(199, true), (200, true), (201, false)] {
        let pattern = Pattern::new("x".repeat(length - around)).unwrap();
        let mut values = match TopicSubscriber::new(&node).pattern::<Value>(pattern).await {
            Ok(values) => values,
            Err(error) => {
                assert!(
                    !fits && matches!(error, NodeError::Address { .. }),
                    "{length}: {error}"
                );
                assert!(error.to_string().contains("200"), "{error}");
                continue;
            }
        };
        assert!(fits, "{length}");
        let topic = world.address(&"x".repeat(length - around));
        assert_eq!(topic.len(), length);
        world.raw().await.publish(&topic, b"1").await;
        let received = timeout(SOON, values.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(received.message, json!(1));
    }
    assert!(Address::new("x".repeat(201)).is_err());
}
