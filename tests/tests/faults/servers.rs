//! Servers that die, panic and compete, and callers who lose interest.

use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::{Execution, StatusCode};
use commlib_tests::{Program, eventually};
use futures_util::{StreamExt, stream};

use crate::raw::Raw;
use crate::world::{
    JobClient, NewsPublisher, NewsSubscriber, Record, SOON, Worker, World, answered, ending, in_flight, serve,
};

const BROKER: &str = "COMMLIB_TEST_BROKER";
const NAMESPACE: &str = "COMMLIB_TEST_NAMESPACE";

/// Is the server that is killed; only when a test starts it so.
#[tokio::test]
async fn child() {
    #[derive(Clone)]
    struct Stuck;
    impl crate::world::Job for Stuck {
        async fn run(&self, number: u64) -> u64 {
            println!("ran {number}");
            number
        }
        async fn hold(&self, number: u64) -> u64 {
            println!("holds {number}");
            std::future::pending().await
        }
        async fn wait(&self, _: &RequestContext) {}
        async fn fail(&self, number: u64) -> u64 {
            number
        }
        async fn note(&self, _: u64) {}
    }
    let (Ok(url), Ok(namespace)) = (std::env::var(BROKER), std::env::var(NAMESPACE)) else {
        return;
    };
    let node = Node::builder()
        .namespace(namespace)
        .connect(&url)
        .await
        .expect("the broker is there");
    let server = node.serve(crate::world::JobServer::new(Stuck));
    let _server = server.concurrency(2).await.expect("serving");
    println!("ready");
    std::future::pending().await
}

pub async fn a_killed_server_takes_only_what_it_had(world: World) {
    let mut child = Program::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "servers::child", "--nocapture"])
        .env(BROKER, world.url())
        .env(NAMESPACE, world.address("x").trim_end_matches(".x"))
        .name("server")
        .start();
    child.wait_line("ready", SOON).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    let limit = Duration::from_secs(12);
    let held: Vec<_> = (1..=2)
        .map(|number| tokio::spawn(job.hold(number).timeout(limit).into_future()))
        .collect();
    for _ in 0..2 {
        child.wait_line("holds", SOON).await;
    }
    // These wait at the broker, or on RabbitMQ in the server as far as it fetched them.
    let waiting: Vec<_> = (3..=40)
        .map(|number| tokio::spawn(job.hold(number).timeout(limit).into_future()))
        .collect();
    let (_other, _, record) = world.serve(64).await;
    record.gate.add_permits(100);
    child.kill().await;
    for held in held {
        let (code, execution) = ending(held.await.expect("no panic"));
        assert_eq!(execution, Execution::MayHaveRun);
        // RabbitMQ delivers it again, and the second server says that it does not know.
        assert!(
            [StatusCode::DeadlineExceeded, StatusCode::Unavailable].contains(&code),
            "{code}"
        );
    }
    let mut ran = 0;
    for (number, call) in (3..).zip(waiting) {
        match call.await.expect("no panic") {
            Ok(answer) => {
                assert_eq!((answer, record.runs(number)), (number, 1));
                ran += 1;
            }
            Err(error) => {
                assert_eq!(error.execution(), Execution::MayHaveRun, "{number}: {error}");
                assert_eq!(record.runs(number), 0, "{number}: {error}");
            }
        }
    }
    assert!(ran >= 30, "only {ran} of 38 waiting requests were served");
    assert_eq!(record.runs(1) + record.runs(2), 0, "a second run");
    answered(&job).await;
}

/// On Redis it waits for the next server. On RabbitMQ its queue goes with the last one, which tells everybody.
pub async fn what_waits_for_the_last_server_is_told_or_served_by_the_next(world: World) {
    const MANY: u64 = 100;
    // None of these calls ends by its deadline, however slow the machine is.
    const NEVER: Duration = Duration::from_secs(300);
    let patient = || async {
        let patient = world.builder().connect_timeout(NEVER).operation_timeout(NEVER);
        patient.connect(&world.url()).await.expect("the broker is there")
    };
    let (first, next) = (Record::new(), Record::new());
    let server = serve(&patient().await, &first, 1).await;
    let job = JobClient::new(&patient().await);
    let held = tokio::spawn(job.hold(1).timeout(NEVER).into_future());
    eventually(SOON, || async { first.runs(1) == 1 }).await;
    let numbers = 2..2 + MANY;
    let calls: Vec<_> = numbers
        .clone()
        .map(|number| tokio::spawn(job.run(number).timeout(NEVER).into_future()))
        .collect();
    let raw = Raw::new(&world).await;
    let queue = world.address("job.run");
    eventually(SOON, || async {
        let waiting = raw.waiting(&queue).await;
        if waiting.unsigned_abs() == MANY {
            Ok(())
        } else {
            Err(waiting)
        }
    })
    .await;
    let stopping = tokio::spawn(async move { server.shutdown().await });
    tokio::task::yield_now().await;
    first.gate.add_permits(1);
    held.await.expect("no panic").expect("it was taken");
    stopping.await.expect("no panic").expect("it ends in time");
    let _next = serve(&patient().await, &next, 64).await;
    let mut served = 0;
    for (number, call) in numbers.zip(calls) {
        let runs = first.runs(number) + next.runs(number);
        match call.await.expect("no panic") {
            Ok(_) => served += 1,
            told => {
                let did_not_run = (StatusCode::Unavailable, Execution::DidNotRun);
                assert_eq!((ending(told), runs), (did_not_run, 0), "{number}");
            }
        }
    }
    if world.broker.is_redis() {
        assert_eq!(served, MANY);
    }
}

pub async fn panics_cost_no_permit(world: World) {
    const MANY: u64 = 5_000;
    std::panic::set_hook(Box::new(|panic| {
        // Thousands of these would hide everything else.
        if !panic.to_string().contains("odd numbers") {
            eprintln!("{panic}");
        }
    }));
    let (_node, server, record) = world.serve(8).await;
    let job = JobClient::new(&world.node().await);
    let calls = stream::iter(0..2 * MANY).map(|number| {
        let call = job.fail(number).timeout(SOON).into_future();
        async move { (number, call.await) }
    });
    let mut calls = calls.buffer_unordered(256);
    let mut panics = 0;
    while let Some((number, result)) = calls.next().await {
        if number.is_multiple_of(2) {
            assert_eq!(result.expect("an even number is served"), number);
        } else {
            assert_eq!(ending(result), (StatusCode::Internal, Execution::Failed));
            panics += 1;
        }
    }
    assert_eq!((panics, record.numbers()), (MANY, 2 * MANY as usize));
    // All eight places are there.
    let held: Vec<_> = (1..=8)
        .map(|n| tokio::spawn(job.hold(1_000_000 + n).timeout(SOON).into_future()))
        .collect();
    eventually(SOON, || async {
        (1..=8).all(|n| record.runs(1_000_000 + n) == 1)
    })
    .await;
    record.gate.add_permits(8);
    for held in held {
        held.await.expect("no panic").expect("a reply");
    }
    server.shutdown().await.expect("nothing is left");
}

pub async fn a_caller_who_is_gone_leaves_nothing(world: World) {
    let (_node, server, record) = world.serve(64).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    answered(&job).await;
    for round in 0..20 {
        // Some are answered, some dropped before they were sent, some dropped while their handler runs.
        let dropped: Vec<_> = (0..20)
            .map(|_| tokio::spawn(job.wait().timeout(SOON).into_future()))
            .collect();
        let kept: Vec<_> = (0..20)
            .map(|n| tokio::spawn(job.run(1 + round * 20 + n).timeout(SOON).into_future()))
            .collect();
        drop(job.run(u64::MAX - 1).into_future());
        if round % 2 == 0 {
            for kept in kept {
                kept.await.expect("no panic").expect("a reply");
            }
        }
        for dropped in dropped {
            dropped.abort();
        }
    }
    eventually(SOON, || async {
        match in_flight(&node) {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(record.runs(u64::MAX - 1), 0);
    // Each handler whose caller is gone has heard of it, or the server would not end in time.
    server.shutdown_within(SOON / 3).await.expect("nothing is left");
}

pub async fn three_servers_share_fairly_and_each_call_runs_once(world: World) {
    const CALLS: u64 = 30_000;
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(world.serve(16).await);
    }
    let job = JobClient::new(&world.node().await);
    answered(&job).await;
    let calls = stream::iter(0..CALLS).map(|number| job.run(number).timeout(SOON).into_future());
    let mut calls = calls.buffer_unordered(200);
    while let Some(result) = calls.next().await {
        result.expect("a reply");
    }
    let shares: Vec<_> = servers.iter().map(|(_, _, record)| record.numbers()).collect();
    for number in 0..CALLS {
        let runs: u32 = servers.iter().map(|(_, _, record)| record.runs(number)).sum();
        assert_eq!(runs, 1, "call {number}");
    }
    let (least, most) = (
        shares.iter().min().expect("three"),
        shares.iter().max().expect("three"),
    );
    assert!(*most <= 2 * *least, "{shares:?}");
}

pub async fn a_subscriber_who_sleeps_costs_bounded_memory(world: World) {
    const MANY: u64 = 20_000;
    let mut news = NewsSubscriber::new(&world.node().await)
        .item()
        .buffer(100)
        .await
        .expect("subscribing");
    let publisher = NewsPublisher::new(&world.node().await);
    let publishes = stream::iter(0..MANY).map(|number| publisher.item(number).into_future());
    let mut publishes = publishes.buffered(200);
    while let Some(published) = publishes.next().await {
        published.expect("publishing");
    }
    // The last one is there; of the others as many as fit, and the rest was counted.
    let (mut heard, mut missed, mut last) = (0, 0, None);
    while last != Some(MANY - 1) {
        match tokio::time::timeout(SOON, news.next())
            .await
            .expect("in time")
            .expect("not the end")
        {
            Ok(received) => {
                assert!(last.is_none_or(|last| last < received.message), "out of order");
                (heard, last) = (heard + 1, Some(received.message));
            }
            Err(RecvError::Lagged(messages)) => missed += messages,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(heard + missed, MANY, "{heard} heard and {missed} missed");
    assert!(missed > 0);
}

/// A handler that calls on through the broker while its own caller waits, on one channel for replies.
pub async fn chains_of_calls_do_not_wait_for_themselves(world: World) {
    struct Chain(JobClient);
    impl crate::world::Link for Chain {
        async fn pass(&self, ctx: &RequestContext, number: u64) -> Result<u64, crate::world::Broken> {
            if number == 0 {
                return self
                    .0
                    .run(1)
                    .await
                    .map_err(|error| crate::world::Broken(error.to_string()));
            }
            let next = crate::world::LinkClient::new(ctx.node());
            let passed = next.pass(number - 1).await;
            passed.map_err(|error| crate::world::Broken(error.to_string()))
        }
    }
    let (node, _, _) = world.serve(2).await;
    // One node serves, calls and is called.
    let chain = Chain(JobClient::new(&node));
    let server = node.serve(crate::world::LinkServer::new(chain));
    server.concurrency(64).await.expect("serving");
    let link = crate::world::LinkClient::new(&node);
    let calls = stream::iter(0..200).map(|_| link.pass(4).timeout(SOON).into_future());
    let mut calls = calls.buffer_unordered(10);
    while let Some(result) = calls.next().await {
        assert_eq!(result.expect("a reply"), 1);
    }
}

pub async fn two_servers_of_one_node_and_two_nodes_do_not_mix_replies(world: World) {
    let record = Record::new();
    let node = world.node().await;
    let _first = serve(&node, &record, 8).await;
    let _second = node
        .serve(crate::world::JobServer::new(Worker(Arc::clone(&record))))
        .await
        .expect("serving");
    let clients: Vec<_> = [world.node().await, world.node().await, node]
        .iter()
        .map(JobClient::new)
        .collect();
    let calls = stream::iter(0..3000_u64).map(|number| {
        let call = clients[number as usize % 3]
            .run(number)
            .timeout(SOON)
            .into_future();
        async move { (number, call.await) }
    });
    let mut calls = calls.buffer_unordered(300);
    while let Some((number, result)) = calls.next().await {
        assert_eq!(result.expect("a reply"), number);
    }
    assert_eq!(record.numbers(), 3000);
}
