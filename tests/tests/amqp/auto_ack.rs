//! Servers that let the broker forget what it sent them.

use std::time::{Duration, Instant};

use commlib::prelude::*;
use commlib::{Execution, NoError, StatusCode};
use commlib_tests::{FaultProxy, RabbitMq, eventually};
use tokio::task::JoinSet;

use crate::world::{SOON, WorkClient, World};

/// What a server with one place has room for: one that runs, and those that wait.
const ROOM: usize = 1 + 64;

type Ending = (StatusCode, Execution);

fn ending<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, CallError<E>>) -> Ending {
    match result {
        Err(CallError::Status(status)) => (status.code, status.execution),
        other => panic!("{other:?}"),
    }
}

/// Calls that wait for the gate, all at once.
fn calls(work: &WorkClient, many: usize) -> JoinSet<Result<u64, CallError<NoError>>> {
    (0..many)
        .map(|_| work.wait().timeout(SOON).into_future())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_no_room_for_is_refused_at_once() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (_server, seen) = world.serve_auto_ack(&world.node().await, 1).await;
    let mut calls = calls(&WorkClient::new(&world.node().await), ROOM + 50);
    let started = Instant::now();
    for _ in 0..50 {
        let refused = calls.join_next().await.unwrap().unwrap();
        let wanted = (StatusCode::ResourceExhausted, Execution::DidNotRun);
        assert_eq!(ending(refused), wanted);
    }
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    assert_eq!(seen.waiting(), 1);
    seen.gate.add_permits(ROOM);
    for kept in calls.join_all().await {
        kept.unwrap();
    }
    assert_eq!(seen.waiting(), ROOM as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_server_had_goes_to_nobody() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let proxy = FaultProxy::start(broker.port()).await;
    let behind = world
        .builder()
        .connect(
            &broker
                .url()
                .replace(&broker.port().to_string(), &proxy.port().to_string()),
        )
        .await
        .unwrap();
    let (_first, had) = world.serve_auto_ack(&behind, 1).await;
    let work = WorkClient::new(&world.node().await);
    let lost: Vec<_> = (0..3)
        .map(|_| tokio::spawn(work.wait().timeout(Duration::from_secs(2)).into_future()))
        .collect();
    eventually(SOON, || async { had.waiting() == 1 }).await;
    let (_second, seen) = world.serve_auto_ack(&world.node().await, 1).await;
    proxy.refuse().await;
    proxy.reset().await;
    // Those that waited may be told that they did not run, if there is still a way for that.
    let unknown = (StatusCode::DeadlineExceeded, Execution::MayHaveRun);
    let told = (StatusCode::Unavailable, Execution::DidNotRun);
    let mut endings = Vec::new();
    for lost in lost {
        endings.push(ending(lost.await.unwrap()));
    }
    let all = endings.iter().all(|ending| [unknown, told].contains(ending));
    assert!(all && endings.contains(&unknown), "{endings:?}");
    // The queue lives on, and the next request is the first that the second server gets.
    seen.gate.add_permits(1);
    assert_eq!(work.wait().timeout(SOON).await.unwrap(), 1);
    assert_eq!(seen.waiting(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_a_server_stops_did_not_run() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (server, seen) = world.serve_auto_ack(&world.node().await, 1).await;
    let mut calls = calls(&WorkClient::new(&world.node().await), ROOM + 1);
    // When one is refused, the others are all there.
    let refused = calls.join_next().await.unwrap().unwrap();
    assert_eq!(ending(refused).0, StatusCode::ResourceExhausted);
    let stopping = tokio::spawn(async move { server.shutdown().await });
    for _ in 1..ROOM {
        let ending = ending(calls.join_next().await.unwrap().unwrap());
        assert_eq!(ending, (StatusCode::Unavailable, Execution::DidNotRun));
    }
    seen.gate.add_permits(1);
    let ran = calls.join_next().await.unwrap().unwrap();
    assert_eq!((ran.unwrap(), seen.waiting()), (1, 1));
    stopping.await.unwrap().unwrap();
}
