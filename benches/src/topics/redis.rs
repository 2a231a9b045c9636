//! Redis Pub/Sub by hand on the redis crate.

use commlib_bench_protocol::{Collector, Fault, Publisher, Reading, answer_collects, drive_publisher};
use futures_util::StreamExt as _;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;

const CHANNEL: &str = "bench.raw.sonar";

pub(crate) async fn subscribe(url: &str) -> anyhow::Result<()> {
    let mut pubsub = redis::Client::open(url)?.get_async_pubsub().await?;
    pubsub.subscribe(CHANNEL).await?;
    let collector = Collector::new();
    let taken = collector.clone();
    tokio::spawn(async move {
        let mut messages = pubsub.into_on_message();
        while let Some(message) = messages.next().await {
            taken.take_json(message.get_payload_bytes());
        }
    });
    answer_collects(&collector).await
}

/// One connection, on which the crate writes what is asked for at the same time together.
pub(crate) async fn publish(url: &str) -> anyhow::Result<()> {
    let connection = crate::rpc::redis_naive::connect(url).await?;
    drive_publisher(Connection(connection)).await
}

#[derive(Clone)]
struct Connection(MultiplexedConnection);

impl Publisher for Connection {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        let _: () = self.0.clone().publish(CHANNEL, message).await?;
        Ok(())
    }
}
