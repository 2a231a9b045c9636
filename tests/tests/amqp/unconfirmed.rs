//! Topic messages whose publisher does not wait for the broker.

use std::time::Duration;

use commlib_tests::{Direction, FaultProxy, Flow, RabbitMq};
use futures_util::{FutureExt, future};

use crate::world::{NewsPublisher, NewsSubscriber, SOON, World};

#[commlib::topic(prefix = "bulk")]
trait Bulk {
    async fn text(&self, numbered: (u64, String));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unconfirmed_message_arrives_and_says_what_it_is() {
    const MANY: u64 = 100;
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let mut news = NewsSubscriber::new(&world.node().await).item().await.unwrap();
    let publisher = NewsPublisher::new(&world.node().await);
    assert!(!publisher.item(0).await.unwrap().unconfirmed);
    let publishes = (1..MANY).map(|number| publisher.item(number).unconfirmed().into_future());
    for accepted in future::join_all(publishes).await {
        assert!(accepted.unwrap().unconfirmed);
    }
    let mut came = Vec::new();
    for _ in 0..MANY {
        let item = tokio::time::timeout(SOON, news.next()).await.unwrap().unwrap();
        came.push(item.unwrap().message);
    }
    came.sort_unstable();
    assert_eq!(came, (0..MANY).collect::<Vec<_>>());
}

/// What the connection has not written is bounded, what is too much waits for it, and nothing is lost or overtaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_for_a_connection_that_writes_nothing() {
    const BODY: usize = 64 * 1024;
    // 8 MiB, and what the sockets on the way take.
    const MOST: u64 = 1000;
    let broker = RabbitMq::shared().await;
    let proxy = FaultProxy::start(broker.port()).await;
    let world = World::new(broker.url());
    let url = broker.url_at(proxy.port());
    let mut bulk = BulkSubscriber::new(&world.node().await).text().await.unwrap();
    let node = world
        .builder()
        .connect(&format!("{url}?heartbeat=60"))
        .await
        .unwrap();
    let publisher = BulkPublisher::new(&node);
    let text = "x".repeat(BODY);
    let publish = |number| {
        let publish = publisher.text((number, text.clone()));
        publish.unconfirmed().timeout(SOON).into_future()
    };
    publish(0).await.unwrap();

    proxy.set_one(Direction::ToBroker, Flow::Hold);
    let mut published = 1;
    let waiting = loop {
        assert!(published < MOST, "nothing waits");
        let mut next = publish(published);
        published += 1;
        match tokio::time::timeout(Duration::from_secs(1), &mut next).await {
            Ok(accepted) => assert!(accepted.unwrap().unconfirmed),
            Err(_) => break next,
        }
    };
    proxy.set(Flow::Pass);
    waiting.await.unwrap();
    publish(published).await.unwrap();
    for number in 0..=published {
        let item = tokio::time::timeout(SOON, bulk.next()).await.unwrap().unwrap();
        assert_eq!(item.unwrap().message.0, number);
    }
}

/// What was handed over is written before a node is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_node_waits_for_what_was_handed_over() {
    const MANY: u64 = 1000;
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let mut news = NewsSubscriber::new(&world.node().await).item().await.unwrap();
    let node = world.node().await;
    let publisher = NewsPublisher::new(&node);
    for number in 0..MANY {
        publisher.item(number).unconfirmed().await.unwrap();
    }
    node.shutdown(SOON).await.unwrap();
    for number in 0..MANY {
        let item = tokio::time::timeout(SOON, news.next()).await.unwrap().unwrap();
        assert_eq!(item.unwrap().message, number);
    }
}

/// Dropping a publish does not take it back, confirmed or not, and closing the node waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_that_nobody_awaits_any_more_go_out_all_the_same() {
    const MANY: u64 = 100;
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let mut news = NewsSubscriber::new(&world.node().await).item().await.unwrap();
    let node = world.node().await;
    let publisher = NewsPublisher::new(&node);
    publisher.item(0).await.unwrap();
    for number in 1..MANY {
        // The poll hands it over. On a busy machine its confirm may even come before the poll is over.
        let _ = publisher.item(number).into_future().now_or_never();
    }
    node.shutdown(SOON).await.unwrap();
    for number in 0..MANY {
        let item = tokio::time::timeout(SOON, news.next()).await.unwrap().unwrap();
        assert_eq!(item.unwrap().message, number);
    }
}
