//! RPC by hand on lapin: a queue per method, direct reply-to, a map of correlation ids, no confirms.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Add, AddArgs, Echo, EchoArgs, Method};

/// How the server works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Acknowledge each request after its reply, with a prefetch of 64; else the broker forgets it on delivery.
    pub(crate) ack: bool,
    /// A task per request; else one after the other in the loop of the consumer.
    pub(crate) spawn: bool,
}

fn queue<M: Method>() -> String {
    format!("bench.raw.{}", M::NAME)
}

pub(crate) async fn serve(url: &str, style: Style) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if style.ack {
        channel.basic_qos(64, BasicQosOptions::default()).await?;
    }
    consume::<Add>(&channel, style).await?;
    consume::<Echo>(&channel, style).await?;
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

async fn consume<M: Method>(channel: &Channel, style: Style) -> anyhow::Result<()> {
    let queue = queue::<M>();
    let declare = QueueDeclareOptions {
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), declare, FieldTable::default())
        .await?;
    let options = BasicConsumeOptions {
        no_ack: !style.ack,
        ..BasicConsumeOptions::default()
    };
    let mut requests = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await?;
    let channel = channel.clone();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = requests.next().await {
            let work = answer::<M>(channel.clone(), delivery, style.ack);
            if style.spawn {
                tokio::spawn(report(work));
            } else {
                report(work).await;
            }
        }
    });
    Ok(())
}

async fn report(work: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = work.await {
        eprintln!("a request was not answered: {error:#}");
    }
}

async fn answer<M: Method>(channel: Channel, delivery: Delivery, ack: bool) -> anyhow::Result<()> {
    let reply = M::run(serde_json::from_slice(&delivery.data)?);
    let reply = serde_json::to_vec(&reply)?;
    let reply_to = delivery.properties.reply_to().clone().context("no reply_to")?;
    let id = delivery.properties.correlation_id().clone().context("no id")?;
    let properties = BasicProperties::default().with_correlation_id(id);
    channel
        .basic_publish(
            "".into(),
            reply_to,
            BasicPublishOptions::default(),
            &reply,
            properties,
        )
        .await?;
    if ack {
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

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
    let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> = Arc::default();
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
    let client = Client {
        channel,
        waiting,
        next: Arc::default(),
    };
    drive_rpc(client).await
}

#[derive(Clone)]
struct Client {
    channel: Channel,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
    next: Arc<AtomicU64>,
}

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Client {
    async fn call<M: Method>(&self, args: &M::Args) -> Result<M::Reply, Fault> {
        let body = serde_json::to_vec(args)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (caller, reply) = oneshot::channel();
        self.waiting.lock().insert(id, caller);
        let properties = BasicProperties::default()
            .with_correlation_id(id.to_string().into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        self.channel
            .basic_publish(
                "".into(),
                queue::<M>().into(),
                BasicPublishOptions::default(),
                &body,
                properties,
            )
            .await?;
        Ok(serde_json::from_slice(&reply.await?)?)
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<Add>(&AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<Echo>(&EchoArgs { text }).await?.text)
    }
}
