//! What was handed to the broker right before a node is shut down is not lost with the connection.

use commlib_tests::{RabbitMq, eventually};
use futures_util::future;
use tokio::time::timeout;

use crate::world::{NewsPublisher, NewsSubscriber, SOON, WorkClient, World};

/// Enough for the broker to fall behind the socket.
const MANY: u32 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_server_that_ends_get_its_last_replies() {
    let broker = RabbitMq::start().await;
    let world = World::new(broker.url());
    let (serving, calling) = (world.node().await, world.node().await);
    let (_server, seen) = world.serve(&serving, MANY).await;
    let work = WorkClient::new(&calling);
    let calls = (0..MANY).map(|_| tokio::spawn(work.wait().timeout(3 * SOON).into_future()));
    let calls = future::join_all(calls);
    let end = async {
        eventually(2 * SOON, || async { seen.waiting() == u64::from(MANY) }).await;
        // All at once, and the connection is closed as soon as the last reply is written.
        seen.gate.add_permits(MANY as usize);
        serving.shutdown(SOON).await
    };
    let (calls, end) = tokio::join!(calls, end);
    end.unwrap();
    for call in calls {
        call.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unconfirmed_messages_outlive_their_publisher() {
    let broker = RabbitMq::start().await;
    let world = World::new(broker.url());
    let mut news = NewsSubscriber::new(&world.node().await).item().await.unwrap();
    let node = world.node().await;
    let publisher = NewsPublisher::new(&node);
    let publishes = (0..MANY).map(|number| publisher.item(number.into()).unconfirmed().into_future());
    for accepted in future::join_all(publishes).await {
        accepted.unwrap();
    }
    node.shutdown(SOON).await.unwrap();
    for number in 0..MANY {
        let item = timeout(SOON, news.next()).await;
        let item = item.unwrap_or_else(|_| panic!("{number} of {MANY} messages came"));
        item.unwrap().unwrap();
    }
}
