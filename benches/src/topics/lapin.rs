//! Topics on RabbitMQ by hand on lapin: the exchange `amq.topic`, a queue of the subscriber's own, or a durable one.

use commlib_bench_protocol::{Collector, Fault, Publisher, Reading, answer_collects, drive_publisher};
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

const EXCHANGE: &str = "amq.topic";
const KEY: &str = "bench.raw.sonar";
/// That of the durable queue, which stays.
const KEPT_KEY: &str = "bench.raw.kept";

/// The queue that is kept at the broker.
const DURABLE: &str = "bench.raw.durable";
/// So many messages are acknowledged together at most.
const ROW: usize = 16;

/// How a subscriber acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    None,
    /// One for each message, with this prefetch.
    Each(u16),
    /// One for all that came together, with this prefetch.
    Rows(u16),
}

/// Subscribes, with a queue of its own or a durable one.
pub(crate) async fn subscribe(url: &str, acks: Acks, durable: bool) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if let Acks::Each(prefetch) | Acks::Rows(prefetch) = acks {
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    }
    let declare = QueueDeclareOptions {
        durable,
        exclusive: !durable,
        auto_delete: !durable,
        ..QueueDeclareOptions::default()
    };
    let (name, key) = if durable { (DURABLE, KEPT_KEY) } else { ("", KEY) };
    let queue = channel
        .queue_declare(name.into(), declare, FieldTable::default())
        .await?;
    let name = queue.name().as_str();
    // What an earlier round left is not to be counted.
    channel
        .queue_purge(name.into(), QueuePurgeOptions::default())
        .await?;
    channel
        .queue_bind(
            name.into(),
            EXCHANGE.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions {
        no_ack: acks == Acks::None,
        ..BasicConsumeOptions::default()
    };
    let mut messages = channel
        .basic_consume(name.into(), "".into(), options, FieldTable::default())
        .await?;
    let collector = Collector::new();
    let taken = collector.clone();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = messages.next().await {
            taken.take_json(&delivery.data);
            let (mut last, mut row) = (delivery, 1);
            if let Acks::Rows(_) = acks {
                while row < ROW
                    && let Some(Some(Ok(delivery))) = messages.next().now_or_never()
                {
                    taken.take_json(&delivery.data);
                    last = delivery;
                    row += 1;
                }
            }
            let options = BasicAckOptions { multiple: row > 1 };
            if acks != Acks::None
                && let Err(error) = last.ack(options).await
            {
                taken.fault(&error.to_string());
            }
        }
    });
    answer_collects(&collector).await
}

/// Publishes; with confirms, a message counts when the broker has confirmed it. It can go to the durable queue, marked to
/// survive the broker.
pub(crate) async fn publish(url: &str, confirm: bool, kept: bool) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if confirm {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    let (key, properties) = if kept {
        (KEPT_KEY, BasicProperties::default().with_delivery_mode(2))
    } else {
        (KEY, BasicProperties::default())
    };
    drive_publisher(Exchange {
        channel,
        key,
        confirm,
        properties,
    })
    .await
}

#[derive(Clone)]
struct Exchange {
    channel: Channel,
    key: &'static str,
    confirm: bool,
    properties: BasicProperties,
}

impl Publisher for Exchange {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        let options = BasicPublishOptions::default();
        let confirm = self
            .channel
            .basic_publish(
                EXCHANGE.into(),
                self.key.into(),
                options,
                &message,
                self.properties.clone(),
            )
            .await?;
        if self.confirm {
            let confirmation = confirm.await?;
            anyhow::ensure!(
                matches!(confirmation, Confirmation::Ack(_)),
                "not confirmed: {confirmation:?}"
            );
        }
        Ok(())
    }
}
