//! RabbitMQ copies a message to the queues that its headers `CC` and `BCC` name. What a peer wants copied is not copied
//! again with our rights when a message is put to rest or becomes a dead letter.

use std::time::Duration;

use commlib_tests::{RabbitMq, eventually, unique};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::world::{SOON, World};

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

#[commlib::topic(prefix = "orders")]
trait Orders {
    #[topic("placed", durable)]
    async fn placed(&self, order: u64) -> Result<(), Refused>;
}

struct Clerk;

impl Orders for Clerk {
    async fn placed(&self, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_message_is_not_copied_where_a_peer_said() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let node = world.patient_node().await;
    let handler = node.serve(OrdersHandler::new(Clerk)).group("clerks");
    let rest = Duration::from_millis(20);
    handler.attempts(2).retry_delay(rest, rest).await.unwrap();

    let (_connection, channel) = world.raw().await;
    let copies = unique("copies");
    let declare = async |passive| {
        let options = QueueDeclareOptions {
            passive,
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(copies.as_str().into(), options, FieldTable::default());
        declared.await.expect("a queue").message_count()
    };
    declare(false).await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let mut headers = FieldTable::default();
    for name in ["CC", "BCC"] {
        let queues = vec![AMQPValue::LongString(copies.as_str().into())];
        headers.insert(name.into(), AMQPValue::FieldArray(queues.into()));
    }
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_headers(headers);
    // The exchange of topics has nothing for that queue.
    let (exchange, key) = ("amq.topic".into(), world.address("orders.placed").into());
    let published = channel.basic_publish(exchange, key, options, b"7", properties);
    published.await.expect("published").await.expect("confirmed");

    let letter = eventually(SOON, || async {
        let letters = node.dead_letters("clerks").list(1).await.expect("listing");
        letters.into_iter().next()
    })
    .await;
    assert_eq!(letter.attempts, 2);
    assert!(node.dead_letters("clerks").resend(&letter.id).await.unwrap());
    eventually(SOON, || async {
        let letters = node.dead_letters("clerks").list(1).await.expect("listing");
        letters.len() == 1
    })
    .await;
    assert_eq!(declare(true).await, 0);
}
