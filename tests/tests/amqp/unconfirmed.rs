//! Topic messages whose publisher does not wait for the broker.

use commlib_tests::RabbitMq;
use futures_util::future;

use crate::world::{NewsPublisher, NewsSubscriber, SOON, World};

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
