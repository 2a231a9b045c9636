//! Topics on RabbitMQ by hand on lapin: the exchange `amq.topic`, a queue of the subscriber's own.

use commlib_bench_protocol::{Collector, Fault, Publisher, Reading, answer_collects, drive_publisher};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

const EXCHANGE: &str = "amq.topic";
const KEY: &str = "bench.raw.sonar";

/// Subscribes; with acks, one for each message and a prefetch of 256.
pub(crate) async fn subscribe(url: &str, ack: bool) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if ack {
        channel.basic_qos(256, BasicQosOptions::default()).await?;
    }
    let declare = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), declare, FieldTable::default())
        .await?;
    let name = queue.name().as_str();
    channel
        .queue_bind(
            name.into(),
            EXCHANGE.into(),
            KEY.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions {
        no_ack: !ack,
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
            if ack && let Err(error) = delivery.ack(BasicAckOptions::default()).await {
                taken.fault(&error.to_string());
            }
        }
    });
    answer_collects(&collector).await
}

/// Publishes; with confirms, a message counts when the broker has confirmed it.
pub(crate) async fn publish(url: &str, confirm: bool) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    if confirm {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    drive_publisher(Exchange { channel, confirm }).await
}

#[derive(Clone)]
struct Exchange {
    channel: Channel,
    confirm: bool,
}

impl Publisher for Exchange {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        let options = BasicPublishOptions::default();
        let confirm = self
            .channel
            .basic_publish(
                EXCHANGE.into(),
                KEY.into(),
                options,
                &message,
                BasicProperties::default(),
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
