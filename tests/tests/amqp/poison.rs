//! Bytes that are no AMQP end a connection. A consumer to which that happens again and again is taken aside, so that its
//! neighbours live on, and then rests.

use std::time::Duration;

use commlib::ConnectionState;
use commlib_tests::{Direction, FaultProxy, Flow, RabbitMq, RabbitNode, eventually};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection};
use tokio::time::{Instant, timeout};

use crate::world::{OtherClient, OtherServer, Ping, World};

/// How long the test waits for what must happen, on a slow machine too.
const LONG: Duration = Duration::from_secs(120);

/// Whether somebody consumes a queue. The question costs the channel if there is no such queue.
async fn is_consumed(connection: &Connection, queue: &str) -> bool {
    let channel = connection.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    declared.await.is_ok_and(|queue| queue.consumer_count() > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_bytes_end_again_and_again_rests_and_says_so() {
    let broker = RabbitMq::shared().await;
    // All connections are garbled at once. A neighbour that is just being built is hit as well, and then rests with reason:
    // such a try says nothing.
    for _ in 0..6 {
        if rests_alone(&broker).await {
            return;
        }
    }
    panic!("its neighbour rests too");
}

/// Whether, of two consumers, only the one rests that is given what nobody can parse.
async fn rests_alone(broker: &RabbitNode) -> bool {
    let world = World::new(broker.url());
    let proxy = FaultProxy::start(broker.port()).await;
    // With signs of life this rare nothing else is turned over.
    let url = format!("{}?heartbeat=3600", broker.url_at(proxy.port()));
    let node = world.builder().connect_timeout(LONG).operation_timeout(LONG);
    let node = node.connect(&url).await.unwrap();
    // A request that the broker forgets when it sends it comes once.
    let (_server, _) = world.serve_auto_ack(&node, 4).await;
    let _neighbour = node.serve(OtherServer::new(Ping)).await.unwrap();
    let other = OtherClient::new(&world.patient_node().await);
    assert!(other.ping().await.unwrap());
    let (connection, channel) = world.raw().await;
    let queue = world.address("work.add");
    let poisoned = || match &*node.state().borrow() {
        ConnectionState::Poisoned { consumers } => Some(consumers.clone()),
        _ => None,
    };
    let end = Instant::now() + LONG;
    let consumers = loop {
        assert!(Instant::now() < end, "it still takes what it is given");
        if let Some(consumers) = poisoned() {
            break consumers;
        }
        if !is_consumed(&connection, &queue).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let before = proxy.accepted();
        proxy.set_one(Direction::ToClient, Flow::Garble);
        channel
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"{}",
                BasicProperties::default(),
            )
            .await
            .expect("published");
        // What came was no AMQP: the connection is given up for another one. Not if the broker gave it to a connection
        // that it has not missed yet: then there is another round.
        let given_up = eventually(LONG, || async {
            proxy.accepted() > before || poisoned().is_some()
        });
        let _ = timeout(Duration::from_secs(3), given_up).await;
        proxy.set_one(Direction::ToClient, Flow::Pass);
    };
    if consumers != [world.address("work")] {
        return false;
    }
    // Its neighbour is served.
    eventually(LONG, || async {
        other.ping().timeout(Duration::from_secs(1)).await
    })
    .await;
    true
}
