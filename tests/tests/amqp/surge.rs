//! Requests that waited for too long are refused while every handler is busy, so that a flood leaves room for young ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commlib_tests::{RabbitMq, eventually};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::world::{SOON, World};

const OLD: usize = 300;

/// A channel with a queue of a method, and where its answers go.
struct Raw {
    channel: Channel,
    queue: String,
}

const REPLIES: &str = "amq.rabbitmq.reply-to";

impl Raw {
    /// Sends a request of so long ago.
    async fn send(&self, before: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let properties = BasicProperties::default()
            .with_timestamp((now - before).as_secs())
            .with_reply_to(REPLIES.into())
            .with_correlation_id("id".into());
        let options = BasicPublishOptions::default();
        let key = self.queue.as_str().into();
        let sent = self
            .channel
            .basic_publish("".into(), key, options, b"{}", properties);
        sent.await.expect("published");
    }

    async fn consumers(&self) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self.queue.as_str().into();
        let declared = self.channel.queue_declare(queue, options, FieldTable::default());
        declared.await.expect("there is such a queue").consumer_count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_requests_are_refused_while_all_handlers_are_busy() {
    let broker = RabbitMq::shared().await;
    // Long, so that the young ones stay young on a slow machine.
    let limit = Duration::from_secs(1200);
    // What takes more at once may give up while the machine stalls, as it waits for no more than a second.
    for _ in 0..5 {
        if refuses_behind_busy_handlers(World::new(broker.url()), limit).await {
            return;
        }
    }
    panic!("old requests wait for a handler");
}

async fn refuses_behind_busy_handlers(world: World, limit: Duration) -> bool {
    let node = world.patient_node().await;
    let (_server, seen) = world.serve_young(&node, 2, limit).await;
    let (_connection, channel) = world.raw().await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let replies = channel.basic_consume(REPLIES.into(), "".into(), options, FieldTable::default());
    let mut replies = replies.await.expect("listening for replies");
    let raw = Raw {
        channel,
        queue: world.address("work.wait"),
    };
    assert_eq!(raw.consumers().await, 1);
    for _ in 0..2 {
        raw.send(Duration::ZERO).await;
    }
    eventually(SOON, || async { seen.waiting() == 2 }).await;
    raw.send(2 * limit).await;
    raw.send(Duration::ZERO).await;
    for _ in 1..OLD {
        raw.send(2 * limit).await;
    }
    // The first handler that ends makes room for an old one, and then a young one runs.
    seen.gate.add_permits(1);
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 1 + OLD {
        let Ok(reply) = tokio::time::timeout(SOON, replies.next()).await else {
            return false;
        };
        let reply = reply.expect("a reply").expect("a reply");
        let headers = reply.properties.headers().clone().unwrap_or_default();
        match headers.inner().get("commlib-error-code") {
            Some(code) => {
                assert_eq!(*code, AMQPValue::LongString("resource_exhausted".into()));
                refused += 1;
            }
            None => answered += 1,
        }
    }
    assert_eq!((answered, refused, seen.waiting()), (1, OLD, 3));
    // When the flood is over, no more is taken than can run.
    eventually(SOON, || async { raw.consumers().await == 1 }).await;
    seen.gate.add_permits(2);
    true
}
