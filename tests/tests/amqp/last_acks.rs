//! What was handled right before a node is shut down is acknowledged, and comes to nobody again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::{RabbitMq, eventually};
use futures_util::future;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::world::World;

/// Enough for the broker to fall behind the socket.
const MANY: u64 = 2_000;
/// More than that takes on a slow machine.
const LONG: Duration = Duration::from_secs(180);

#[commlib::topic(prefix = "orders")]
trait Orders {
    #[topic("placed", durable)]
    async fn placed(&self, order: u64);
}

/// Counts.
#[derive(Clone, Default)]
struct Clerk(Arc<AtomicU64>);

impl Orders for Clerk {
    async fn placed(&self, _: u64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn member(world: &World) -> (Node, Clerk) {
    let (node, clerk) = (world.patient_node().await, Clerk::default());
    let handler = node.serve(OrdersHandler::new(clerk.clone()));
    handler.group("clerks").concurrency(256).await.unwrap();
    (node, clerk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_acknowledgements_of_a_member_are_kept() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (node, clerk) = member(&world).await;
    let shop = world.patient_node().await;
    let publisher = OrdersPublisher::new(&shop);
    let publishing = (0..MANY).map(|order| publisher.placed(order).timeout(LONG).into_future());
    let publishing = future::join_all(publishing);
    let handled = eventually(LONG, || async { clerk.0.load(Ordering::SeqCst) >= MANY });
    let (accepted, ()) = tokio::join!(publishing, handled);
    node.shutdown(LONG).await.unwrap();
    for accepted in accepted {
        accepted.unwrap();
    }
    let (_connection, channel) = world.raw().await;
    let queue = format!("commlib.durable.clerks.{}", world.address("orders.placed"));
    let left = eventually(LONG, || async {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
        let queue = declare.await.expect("the group's queue is there");
        // What was not acknowledged is ready again when the broker has done with the member.
        (queue.consumer_count() == 0).then(|| queue.message_count())
    })
    .await;
    assert_eq!(left, 0, "of {MANY} messages");
    // Nothing but the next one comes to the next member.
    let (_node, next) = member(&world).await;
    publisher.placed(MANY).timeout(LONG).await.unwrap();
    eventually(LONG, || async { next.0.load(Ordering::SeqCst) > 0 }).await;
    assert_eq!(next.0.load(Ordering::SeqCst), 1);
}
