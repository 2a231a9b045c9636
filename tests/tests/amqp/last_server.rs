//! A work queue goes with its last consumer: whoever waits in it is told so, and nobody else is disturbed.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{Execution, NoError};
use commlib_tests::{RabbitMq, eventually};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Queue};
use tokio::task::JoinSet;

use crate::world::{WorkClient, World};

/// How long a test waits for what must happen, on a slow machine too.
const LONG: Duration = Duration::from_secs(120);
/// No call of these tests ends by its deadline, however slow the machine is.
const NEVER: Duration = Duration::from_secs(300);
const MANY: u32 = 150;

type Outcome = Result<i64, CallError<NoError>>;

/// The queue of the calls.
async fn look(world: &World, channel: &Channel) -> Queue {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = world.address("work.add");
    let declare = channel.queue_declare(queue.into(), passive, FieldTable::default());
    declare.await.expect("the queue is there")
}

/// A server with one place, which is taken, and calls that wait at the broker for it.
async fn calls_that_wait(world: &World, work: &WorkClient) -> JoinSet<Outcome> {
    let calls = (0..MANY).map(|n| work.add(n.into(), 1).timeout(NEVER).into_future());
    let calls = calls.collect();
    let (_connection, channel) = world.raw().await;
    eventually(LONG, || async {
        match look(world, &channel).await.message_count() {
            waiting if waiting >= MANY => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_last_server_is_told_that_it_did_not_run() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (server, seen) = world.serve(&world.patient_node().await, 1).await;
    let work = WorkClient::new(&world.patient_node().await);
    let running = tokio::spawn(work.wait().timeout(NEVER).into_future());
    eventually(LONG, || async { seen.waiting() == 1 }).await;
    let mut calls = calls_that_wait(&world, &work).await;
    let stopping = tokio::spawn(async move { server.shutdown().await });
    // They are told while the server still finishes what it has.
    while let Some(outcome) = calls.join_next().await {
        let error = outcome.unwrap().unwrap_err();
        let told = (error.code(), error.execution());
        assert_eq!(
            told,
            (Some(StatusCode::Unavailable), Execution::DidNotRun),
            "{error}"
        );
    }
    assert!(!running.is_finished());
    seen.gate.add_permits(1);
    assert_eq!(running.await.unwrap().unwrap(), 1);
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_last_leaves_what_waits_to_the_others() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (server, seen) = world.serve(&world.patient_node().await, 1).await;
    let (_other, also_seen) = world.serve(&world.patient_node().await, 1).await;
    let work = WorkClient::new(&world.patient_node().await);
    let running = [(); 2].map(|()| tokio::spawn(work.wait().timeout(NEVER).into_future()));
    eventually(LONG, || async { seen.waiting() + also_seen.waiting() == 2 }).await;
    let mut calls = calls_that_wait(&world, &work).await;
    let stopping = tokio::spawn(async move { server.shutdown().await });
    // It takes nothing any more.
    let (_connection, channel) = world.raw().await;
    eventually(LONG, || async {
        look(&world, &channel).await.consumer_count() == 1
    })
    .await;
    seen.gate.add_permits(1);
    stopping.await.unwrap().unwrap();
    also_seen.gate.add_permits(1);
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    for running in running {
        running.await.unwrap().unwrap();
    }
}
