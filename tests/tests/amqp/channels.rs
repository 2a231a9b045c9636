//! What the broker does to one channel stays there, and what it takes away comes back.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{Execution, NodeError};
use commlib_tests::{RabbitMq, eventually};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;

use crate::world::{NewsPublisher, NewsSubscriber, OtherClient, OtherServer, Ping, SOON, WorkClient, World};

fn status(error: NodeError) -> commlib::Status {
    match error {
        NodeError::Status(status) => status,
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_other_properties_is_a_conflict_and_harms_no_neighbour() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let node = world.node().await;
    let (_server, seen) = world.serve(&node, 4).await;
    let work = WorkClient::new(&node);
    let waiting = tokio::spawn(work.wait().timeout(SOON).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;
    let (_connection, channel) = world.raw().await;
    let queue = world.address("other.ping");
    for exclusive in [false, true] {
        let options = QueueDeclareOptions {
            exclusive,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        declare.await.unwrap();
        let error = status(node.serve(OtherServer::new(Ping)).await.unwrap_err());
        let advice = if exclusive {
            "stop that server"
        } else {
            "delete it"
        };
        assert!(
            error.message.contains(&queue) && error.message.contains(advice),
            "{error}"
        );
        let delete = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        delete.await.unwrap();
    }
    let _other = node.serve(OtherServer::new(Ping)).await.unwrap();
    assert!(OtherClient::new(&node).ping().await.unwrap());
    seen.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_made_anew_and_harms_no_neighbour() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let node = world.node().await;
    let (_server, seen) = world.serve(&node, 4).await;
    let work = WorkClient::new(&node);
    let waiting = tokio::spawn(work.wait().timeout(SOON).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;
    let (_connection, channel) = world.raw().await;
    for _ in 0..3 {
        let queue = world.address("work.add");
        let delete = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        delete.await.unwrap();
        eventually(SOON, || async {
            work.add(1, 2).timeout(Duration::from_secs(1)).await
        })
        .await;
    }
    seen.gate.add_permits(1);
    assert_eq!((waiting.await.unwrap().unwrap(), seen.waiting()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_after_the_broker_was_killed() {
    let broker = RabbitMq::start().await;
    let world = World::new(broker.url());
    let (server, client) = (world.node().await, world.node().await);
    let (_server, seen) = world.serve(&server, 4).await;
    let work = WorkClient::new(&client);
    let mut news = NewsSubscriber::new(&client).item().await.unwrap();
    let mut shared = NewsSubscriber::new(&server).item().group("g").await.unwrap();
    let waiting = tokio::spawn(work.wait().timeout(SOON).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;
    broker.kill().await;
    let error = timeout(SOON / 2, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.execution(), Execution::MayHaveRun, "{error}");
    broker.restart().await;
    eventually(SOON, || async {
        work.add(1, 2).timeout(Duration::from_secs(1)).await
    })
    .await;
    for news in [&mut news, &mut shared] {
        let gap = timeout(SOON, news.next()).await.unwrap().unwrap();
        assert_eq!(gap.unwrap_err(), RecvError::Gap);
    }
    NewsPublisher::new(&client).item(7).await.unwrap();
    for news in [&mut news, &mut shared] {
        let item = timeout(SOON, news.next()).await.unwrap().unwrap();
        assert_eq!(item.unwrap().message, 7);
    }
    // Nothing of earlier connections is left: one is of the test, one of the server, for cancellations.
    let queues = broker.list(&["list_queues", "name"]).await;
    let subscriptions = queues
        .iter()
        .filter(|row| row[0].starts_with("commlib.sub."))
        .count();
    assert_eq!(subscriptions, 2, "{queues:?}");
}
