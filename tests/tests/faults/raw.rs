//! Past the library: what a peer of any kind, or an operator, does at the broker.

use std::time::Duration;

use commlib_tests::{RedisNode, unique};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::world::{Broker, SOON, World};

#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub enum Raw {
    Redis(RedisNode),
    Amqp {
        connection: Connection,
        channel: Channel,
    },
}

impl Raw {
    pub async fn new(world: &World) -> Self {
        match &world.broker {
            Broker::Redis(broker) => Self::Redis((**broker).clone()),
            Broker::SharedRedis(broker) => Self::Redis((**broker).clone()),
            Broker::RabbitMq(_) | Broker::SharedRabbitMq(_) => {
                let url = world.url();
                let connection = Connection::connect(&url, ConnectionProperties::default());
                let connection = connection.await.expect("RabbitMQ is there");
                let channel = connection.create_channel().await.expect("a channel");
                Self::Amqp { connection, channel }
            }
        }
    }

    /// Puts bytes on a work queue.
    pub async fn push(&self, address: &str, item: &[u8]) {
        match self {
            Self::Redis(broker) => {
                broker.command(&[b"RPUSH", address.as_bytes(), item]).await;
            }
            Self::Amqp { channel, .. } => publish(channel, address, item, BasicProperties::default()).await,
        }
    }

    /// How many items wait in a work queue.
    pub async fn waiting(&self, address: &str) -> i64 {
        match self {
            Self::Redis(broker) => broker.command(&["LLEN", address]).await.int(),
            Self::Amqp { connection, .. } => {
                let channel = connection.create_channel().await.expect("a channel");
                let options = QueueDeclareOptions {
                    passive: true,
                    ..QueueDeclareOptions::default()
                };
                let queue = channel.queue_declare(address.into(), options, FieldTable::default());
                queue.await.expect("the queue is there").message_count().into()
            }
        }
    }

    /// Makes a native request of 10 s, with a time stamp in µs if there is one, and returns the code and the execution of
    /// its answer; both empty for a success.
    pub async fn call(&self, address: &str, body: &[u8], timestamp: Option<&Value>) -> (String, String) {
        let limit = Duration::from_secs(10);
        match self {
            Self::Redis(broker) => {
                let id: String = unique("").chars().chain(unique("x").chars()).take(24).collect();
                let id = format!("{id:x<24}");
                let reply_to = format!("commlib:reply:{id}");
                let mut meta = json!({ "id": "raw-1", "timeout_ms": 10_000, "reply_to": reply_to });
                if let Some(timestamp) = timestamp {
                    meta["timestamp"] = timestamp.clone();
                }
                let mut item = format!("{{\"meta\":{meta},\"data\":").into_bytes();
                item.extend_from_slice(body);
                item.push(b'}');
                self.push(address, &item).await;
                let mut client = broker.client().await;
                let seconds = limit.as_secs().to_string();
                let popped = client.command(&["BLPOP", &reply_to, &seconds]).await.strings();
                let reply = popped
                    .get(1)
                    .unwrap_or_else(|| panic!("{address} did not answer"));
                let reply: Value = serde_json::from_str(reply).expect("a reply is JSON");
                let error = &reply["meta"]["error"];
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                (text("code"), text("execution"))
            }
            Self::Amqp { connection, .. } => {
                let channel = connection.create_channel().await.expect("a channel");
                let options = BasicConsumeOptions {
                    no_ack: true,
                    ..BasicConsumeOptions::default()
                };
                let direct = "amq.rabbitmq.reply-to";
                let consume = channel.basic_consume(direct.into(), "".into(), options, FieldTable::default());
                let mut replies = consume.await.expect("Direct Reply-to");
                let mut headers = FieldTable::default();
                headers.insert("commlib-timeout-ms".into(), AMQPValue::LongLongInt(10_000));
                let stamp = match timestamp {
                    None => None,
                    Some(Value::Number(number)) if number.is_i64() => {
                        number.as_i64().map(AMQPValue::LongLongInt)
                    }
                    Some(other) => Some(AMQPValue::LongString(other.to_string().into())),
                };
                if let Some(stamp) = stamp {
                    headers.insert("commlib-timestamp-us".into(), stamp);
                }
                let properties = BasicProperties::default()
                    .with_type("commlib.request".into())
                    .with_message_id("raw-1".into())
                    .with_reply_to(direct.into())
                    .with_expiration("10000".into())
                    .with_headers(headers);
                publish(&channel, address, body, properties).await;
                let delivery = tokio::time::timeout(SOON, replies.next()).await;
                let delivery = delivery
                    .unwrap_or_else(|_| panic!("{address} did not answer"))
                    .expect("not the end")
                    .expect("a delivery");
                let headers = delivery.properties.headers().clone().unwrap_or_default();
                let text = |name: &str| {
                    let value = headers.inner().get(name).and_then(|value| value.as_long_string());
                    value.map(LongString::to_string).unwrap_or_default()
                };
                (text("commlib-error-code"), text("commlib-error-execution"))
            }
        }
    }
}

async fn publish(channel: &Channel, queue: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish("".into(), queue.into(), options, body, properties);
    publish.await.expect("published");
}
