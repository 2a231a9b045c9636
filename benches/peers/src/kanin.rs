//! kanin, which serves Protobuf messages from RabbitMQ with a prefetch of 64 and a task per request by default. It has
//! no client: the one here is lapin's, the same as in the hand-written systems of the bench.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use futures::StreamExt as _;
use kanin::error::FromError;
use kanin::extract::Msg;
use kanin::{App, HandlerError};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

#[derive(Clone, PartialEq, Message)]
struct AddRequest {
    #[prost(int64, tag = "1")]
    a: i64,
    #[prost(int64, tag = "2")]
    b: i64,
}

#[derive(Clone, PartialEq, Message)]
struct AddReply {
    #[prost(int64, tag = "1")]
    c: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

// A request that can't be read has a reply that is right for no call, so the bench sees it.
impl FromError<HandlerError> for AddReply {
    fn from_error(_: HandlerError) -> Self {
        Self { c: i64::MIN }
    }
}

impl FromError<HandlerError> for Text {
    fn from_error(error: HandlerError) -> Self {
        Self {
            text: error.to_string(),
        }
    }
}

async fn add(Msg(request): Msg<AddRequest>) -> AddReply {
    AddReply {
        c: request.a + request.b,
    }
}

async fn echo(Msg(request): Msg<Text>) -> Text {
    request
}

const ADD: &str = "bench.kanin.add";
const ECHO: &str = "bench.kanin.echo";

pub(crate) async fn serve(url: &str) -> anyhow::Result<()> {
    let app = App::new(()).handler(ADD, add).handler(ECHO, echo);
    let address = url.to_owned();
    tokio::spawn(async move {
        if let Err(error) = app.run(&address).await {
            eprintln!("kanin ended: {error}");
        }
    });
    // kanin does not say when it consumes: both queues are there then.
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    for queue in [ADD, ECHO] {
        while !has_consumer(&connection, queue).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

async fn has_consumer(connection: &Connection, queue: &str) -> anyhow::Result<bool> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    // Asking for a queue that is not there closes the channel, which is why each look has its own.
    match channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await
    {
        Ok(queue) => Ok(queue.consumer_count() > 0),
        Err(_) => Ok(false),
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>;

pub(crate) async fn drive(url: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut replies = channel
        .basic_consume(
            "amq.rabbitmq.reply-to".into(),
            "".into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let waiting = Waiting::default();
    let map = Arc::clone(&waiting);
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = replies.next().await {
            let id = delivery
                .properties
                .correlation_id()
                .as_ref()
                .and_then(|id| id.as_str().parse::<u64>().ok());
            if let Some(caller) = id.and_then(|id| map.lock().remove(&id)) {
                let _ = caller.send(delivery.data);
            }
        }
    });
    let next = Arc::default();
    drive_rpc(Client {
        channel,
        waiting,
        next,
    })
    .await
}

#[derive(Clone)]
struct Client {
    channel: Channel,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Client {
    async fn call<R: Message + Default>(
        &self,
        queue: &'static str,
        request: &impl Message,
    ) -> Result<R, Fault> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (caller, reply) = oneshot::channel();
        self.waiting.lock().insert(id, caller);
        let properties = BasicProperties::default()
            .with_correlation_id(id.to_string().into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish(
                "".into(),
                queue.into(),
                options,
                &request.encode_to_vec(),
                properties,
            )
            .await?;
        Ok(R::decode(reply.await?.as_slice())?)
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<AddReply>(ADD, &AddRequest { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<Text>(ECHO, &Text { text }).await?.text)
    }
}
