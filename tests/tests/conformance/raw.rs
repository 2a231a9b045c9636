//! Peers that do not keep to the rules: bytes to and from a broker, past the library.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use commlib::transport::memory::Bus;
use commlib_tests::RespClient;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::world::SOON;

/// A connection to the bytes.
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub enum Raw {
    Memory(Arc<Bus>),
    Redis {
        port: u16,
    },
    Amqp {
        _connection: Connection,
        channel: Channel,
    },
}

/// What came back.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The code of the error, if it is one.
    pub error: Option<String>,
    pub message: String,
    pub execution: String,
    pub data: Value,
}

impl Raw {
    pub fn memory(bus: &str) -> Self {
        Self::Memory(Bus::named(bus))
    }

    pub async fn redis(port: u16) -> Self {
        Self::Redis { port }
    }

    pub async fn amqp(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("RabbitMQ is there");
        let channel = connection.create_channel().await.expect("a channel");
        Self::Amqp {
            _connection: connection,
            channel,
        }
    }

    /// Puts bytes on a work queue that are no message at all: no envelope, no properties.
    pub async fn push(&self, address: &str, item: &[u8]) {
        match self {
            Self::Memory(bus) => {
                assert!(
                    bus.push_raw(address, Bytes::copy_from_slice(item)),
                    "nobody serves {address}"
                );
            }
            Self::Redis { port } => {
                RespClient::connect(*port)
                    .await
                    .command(&[b"RPUSH", address.as_bytes(), item])
                    .await;
            }
            Self::Amqp { channel, .. } => {
                amqp_publish(channel, "", address, item, BasicProperties::default()).await
            }
        }
    }

    /// Sends a request with very many headers, as far as the broker carries them.
    pub async fn push_headers(&self, address: &str, count: usize) {
        if let Self::Amqp { channel, .. } = self {
            let mut headers = FieldTable::default();
            // The largest table that goes into one frame with names of six bytes.
            for header in 0..count.min(8_000) {
                let value = lapin::types::AMQPValue::LongString("".into());
                headers.insert(format!("h{header:05}").into(), value);
            }
            let properties = BasicProperties::default()
                .with_type("commlib.request".into())
                .with_headers(headers);
            amqp_publish(channel, "", address, br#"{"a":1,"b":2}"#, properties).await;
            return;
        }
        let headers: serde_json::Map<_, _> = (0..count)
            .map(|header| (format!("h{header:05}"), "".into()))
            .collect();
        let item = json!({"data": {"a": 1, "b": 2}, "meta": {"headers": headers}});
        self.push(address, item.to_string().as_bytes()).await;
        // As the short way through the parser takes them.
        let item = format!(r#"{{"data":{{"a":1,"b":2}},"meta":{}}}"#, item["meta"]);
        self.push(address, item.as_bytes()).await;
    }

    /// Publishes a native message with a body of a content type.
    pub async fn publish_as(&self, topic: &str, content_type: &str, body: &[u8]) {
        match self {
            Self::Memory(_) | Self::Redis { .. } => {
                self.publish(topic, &envelope_as(body, content_type, None)).await;
            }
            Self::Amqp { channel, .. } => {
                let properties = BasicProperties::default().with_content_type(content_type.into());
                amqp_publish(channel, "amq.topic", topic, body, properties).await;
            }
        }
    }

    /// Publishes bytes to a topic.
    pub async fn publish(&self, topic: &str, item: &[u8]) {
        match self {
            Self::Memory(bus) => {
                bus.publish_raw(topic, Bytes::copy_from_slice(item));
            }
            Self::Redis { port } => {
                RespClient::connect(*port)
                    .await
                    .command(&[b"PUBLISH", topic.as_bytes(), item])
                    .await;
            }
            Self::Amqp { channel, .. } => {
                amqp_publish(channel, "amq.topic", topic, item, BasicProperties::default()).await;
            }
        }
    }

    /// Sends a native request with these bytes as its body to a service, and does not wait for an answer.
    pub async fn request_to(&self, address: &str, body: &[u8], reply_to: &str, timeout_ms: u64) {
        match self {
            Self::Memory(_) | Self::Redis { .. } => {
                self.push(address, &envelope(body, reply_to, timeout_ms, &[]))
                    .await;
            }
            Self::Amqp { channel, .. } => {
                let Some(properties) = amqp_properties(reply_to, timeout_ms) else {
                    return;
                };
                amqp_publish(channel, "", address, body, properties).await;
            }
        }
    }

    /// Sends a native request with these bytes as its body and waits for the answer.
    pub async fn call(&self, address: &str, body: &[u8]) -> Answer {
        let answer = self.try_call(address, None, &[], body, SOON).await;
        answer.unwrap_or_else(|| panic!("{address} did not answer within {SOON:?}"))
    }

    /// The same with a body of a content type. The answer has to be in JSON.
    pub async fn call_as(&self, address: &str, content_type: &str, body: &[u8]) -> Answer {
        let answer = self.try_call(address, Some(content_type), &[], body, SOON).await;
        answer.unwrap_or_else(|| panic!("{address} did not answer within {SOON:?}"))
    }

    /// The same with a body of JSON that is said to be of a content encoding.
    pub async fn call_encoded(&self, address: &str, encoding: &str, body: &[u8]) -> Answer {
        let kind = format!("application/json;{encoding}");
        let answer = self.try_call(address, Some(&kind), &[], body, SOON).await;
        answer.unwrap_or_else(|| panic!("{address} did not answer within {SOON:?}"))
    }

    /// The same with a header of this name, and one that is called `other`.
    pub async fn call_with_header(&self, address: &str, body: &[u8], name: &str) -> Answer {
        let headers = [(name, "1"), ("other", "value")];
        let answer = self.try_call(address, None, &headers, body, SOON).await;
        answer.unwrap_or_else(|| panic!("{address} did not answer within {SOON:?}"))
    }

    async fn try_call(
        &self,
        address: &str,
        content_type: Option<&str>,
        headers: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> Option<Answer> {
        let item = |reply_to: &str| match content_type {
            None => envelope(body, reply_to, 10_000, headers),
            Some(content_type) => envelope_as(body, content_type, Some(reply_to)),
        };
        let id: String = (0..24)
            .map(|_| char::from(rand::random_range(b'a'..=b'z')))
            .collect();
        let reply_to = format!("commlib:reply:{id}");
        match self {
            Self::Memory(bus) => {
                let mut replies = bus.listen_raw(&reply_to);
                self.push(address, &item(&reply_to)).await;
                let reply = tokio::time::timeout(limit, replies.recv()).await.ok()??;
                Some(answer(&reply))
            }
            Self::Redis { port } => {
                self.push(address, &item(&reply_to)).await;
                let mut client = RespClient::connect(*port).await;
                let reply = client
                    .command(&["BLPOP", &reply_to, &limit.as_secs().to_string()])
                    .await;
                let popped = reply.strings();
                Some(answer(popped.get(1)?.as_bytes()))
            }
            Self::Amqp { channel, .. } => {
                let options = BasicConsumeOptions {
                    no_ack: true,
                    ..BasicConsumeOptions::default()
                };
                let tag = ShortString::from(id.as_str());
                let mut replies = channel
                    .basic_consume(
                        "amq.rabbitmq.reply-to".into(),
                        tag.clone(),
                        options,
                        FieldTable::default(),
                    )
                    .await
                    .expect("Direct Reply-to");
                let mut properties = amqp_properties("amq.rabbitmq.reply-to", 10_000).expect("it fits");
                if let Some(content_type) = content_type {
                    let (content_type, encoding) = with_encoding(content_type);
                    properties = properties.with_content_type(content_type.into());
                    if let Some(encoding) = encoding {
                        properties = properties.with_content_encoding(encoding.into());
                    }
                }
                let mut table = properties.headers().clone().unwrap_or_default();
                for (name, value) in headers {
                    let value = lapin::types::AMQPValue::LongString((*value).into());
                    table.insert((*name).into(), value);
                }
                let properties = properties.with_headers(table);
                amqp_publish(channel, "", address, body, properties).await;
                let delivery = tokio::time::timeout(limit, replies.next())
                    .await
                    .ok()??
                    .expect("a delivery");
                channel
                    .basic_cancel(tag, lapin::options::BasicCancelOptions::default())
                    .await
                    .expect("cancel");
                let headers = delivery.properties.headers().clone().unwrap_or_default();
                let header = |name: &str| {
                    headers
                        .inner()
                        .get(name)
                        .and_then(|value| value.as_long_string())
                        .map(LongString::to_string)
                };
                Some(Answer {
                    error: header("commlib-error-code"),
                    message: header("commlib-error-message").unwrap_or_default(),
                    execution: header("commlib-error-execution").unwrap_or_default(),
                    data: serde_json::from_slice(&delivery.data).unwrap_or(Value::Null),
                })
            }
        }
    }

    /// How many messages are on a list or queue of this name that nobody should have made.
    pub async fn written(&self, name: &str) -> bool {
        match self {
            Self::Memory(bus) => bus.queued(name) > 0,
            Self::Redis { port } => {
                RespClient::connect(*port)
                    .await
                    .command(&["EXISTS", name])
                    .await
                    .int()
                    > 0
            }
            Self::Amqp { channel, .. } => {
                let got = channel
                    .basic_get(name.into(), lapin::options::BasicGetOptions { no_ack: true })
                    .await;
                matches!(got, Ok(Some(_)))
            }
        }
    }

    /// Makes a queue that a forged reply address may name; on Redis a list needs no making.
    pub async fn make_queue(&self, name: &str) {
        if let Self::Amqp { channel, .. } = self {
            let options = lapin::options::QueueDeclareOptions {
                exclusive: true,
                ..Default::default()
            };
            channel
                .queue_declare(name.into(), options, FieldTable::default())
                .await
                .expect("a queue");
        }
    }
}

fn envelope(body: &[u8], reply_to: &str, timeout_ms: u64, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let meta = json!({
        "timestamp": u64::try_from(now.as_micros()).expect("in range"), "reply_to": reply_to, "id": "raw-1",
        "timeout_ms": timeout_ms, "headers": headers, "properties": { "content_type": "application/json", "content_encoding": "utf8" },
    });
    let mut item = b"{\"meta\":".to_vec();
    item.extend_from_slice(meta.to_string().as_bytes());
    item.extend_from_slice(b",\"data\":");
    item.extend_from_slice(body);
    item.push(b'}');
    item
}

/// A content type, and the content encoding that may stand behind it.
fn with_encoding(content_type: &str) -> (&str, Option<&str>) {
    match content_type.split_once(';') {
        Some((content_type, encoding)) => (content_type, Some(encoding)),
        None => (content_type, None),
    }
}

/// The envelope of MessagePack, which holds bodies of any content type.
fn envelope_as(body: &[u8], content_type: &str, reply_to: Option<&str>) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend([0xd9, u8::try_from(text.len()).expect("a short text")]);
        out.extend_from_slice(text.as_bytes());
    };
    let mut item = vec![0x82];
    text(&mut item, "data");
    item.push(0xc6);
    item.extend(u32::try_from(body.len()).expect("a short body").to_be_bytes());
    item.extend_from_slice(body);
    text(&mut item, "meta");
    item.push(if reply_to.is_some() { 0x83 } else { 0x82 });
    text(&mut item, "id");
    text(&mut item, "raw-1");
    text(&mut item, "properties");
    let (content_type, encoding) = with_encoding(content_type);
    item.push(if encoding.is_some() { 0x82 } else { 0x81 });
    text(&mut item, "content_type");
    text(&mut item, content_type);
    if let Some(encoding) = encoding {
        text(&mut item, "content_encoding");
        text(&mut item, encoding);
    }
    if let Some(reply_to) = reply_to {
        text(&mut item, "reply_to");
        text(&mut item, reply_to);
    }
    item
}

fn answer(reply: &[u8]) -> Answer {
    let reply: Value = serde_json::from_slice(reply).expect("a reply is JSON");
    let error = &reply["meta"]["error"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Answer {
        error: error["code"].as_str().map(str::to_owned),
        message: text(&error["message"]),
        execution: text(&error["execution"]),
        data: reply["data"].clone(),
    }
}

/// `None` where AMQP itself can't carry the address, so that nothing can be sent.
fn amqp_properties(reply_to: &str, timeout_ms: u64) -> Option<BasicProperties> {
    let mut headers = FieldTable::default();
    headers.insert(
        "commlib-timeout-ms".into(),
        lapin::types::AMQPValue::LongLongInt(timeout_ms.cast_signed()),
    );
    let reply_to = ShortString::try_new(reply_to).ok()?;
    Some(
        BasicProperties::default()
            .with_type("commlib.request".into())
            .with_message_id("raw-1".into())
            .with_correlation_id("raw-1".into())
            .with_reply_to(reply_to)
            .with_headers(headers),
    )
}

async fn amqp_publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) {
    channel
        .basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .expect("published");
}
