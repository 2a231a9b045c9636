//! Messages that the broker returns, and both routes of replies.

use commlib::prelude::StatusCode;
use commlib::{Execution, ReplyRoute};
use commlib_tests::RabbitMq;
use futures_util::future::join_all;

use crate::world::{AbsentClient, WorkClient, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_unroutable_request_of_many_is_told_and_no_other() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (_server, _seen) = world.serve(&world.node().await, 64).await;
    for route in [ReplyRoute::Direct, ReplyRoute::Queue] {
        let node = world
            .builder()
            .reply_route(route)
            .connect(&broker.url())
            .await
            .unwrap();
        let (work, absent) = (&WorkClient::new(&node), &AbsentClient::new(&node));
        for _ in 0..10 {
            join_all((0..100).map(|n| async move {
                if n % 7 == 3 {
                    let error = absent.add(n, n).await.unwrap_err();
                    assert!(error.is_no_responders(), "{route:?} {n}: {error}");
                    assert_eq!(error.execution(), Execution::DidNotRun);
                    assert!(error.to_string().contains("absent.add"), "{error}");
                } else {
                    assert_eq!(work.add(n, n).await.unwrap(), 2 * n, "{route:?}");
                }
            }))
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_unroutable_oneway_request_of_many_is_told_and_no_other() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (_server, seen) = world.serve(&world.node().await, 64).await;
    seen.gate.add_permits(10_000);
    let node = world.node().await;
    let (work, absent) = (&WorkClient::new(&node), &AbsentClient::new(&node));
    // About half, because a return is told apart wrongly only where others wait beside it.
    for round in 0..40 {
        join_all((0..100).map(|n| async move {
            if (n * 7 + round) % 5 < 2 {
                let error = absent.note().await.unwrap_err();
                assert_eq!(error.code(), Some(StatusCode::NoResponders), "{n}: {error}");
            } else {
                work.note().await.unwrap_or_else(|error| panic!("{n}: {error}"));
            }
        }))
        .await;
    }
}

#[tokio::test]
async fn the_reply_queue_is_exclusive_and_goes_with_its_node() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (_server, _seen) = world.serve(&world.node().await, 4).await;
    let node = world.builder().reply_route(ReplyRoute::Queue);
    let node = node.connect(&broker.url()).await.unwrap();
    assert_eq!(WorkClient::new(&node).add(1, 2).await.unwrap(), 3);
    let queues = || async {
        let rows = broker.list(&["list_queues", "name", "exclusive"]).await;
        rows.into_iter()
            .filter(|row| row[0].starts_with("commlib.reply.") && row[1] == "true")
            .count()
    };
    let before = queues().await;
    assert!(before >= 1);
    node.shutdown(crate::world::SOON).await.unwrap();
    commlib_tests::eventually(crate::world::SOON, || async { queues().await < before }).await;
}
