//! Topics of RustStream on RabbitMQ: 64 publishes in flight, prefetch 64, `workers(64)`; its handlers always ack.

use std::sync::LazyLock;

use commlib_bench_protocol::{
    Collector, Fault, Publisher as BenchPublisher, Reading, answer_collects, drive_publisher,
};
use ruststream::OutgoingMessage;
use ruststream_lapin::prelude::*;
use ruststream_lapin::{LapinPublish, LapinPublisher, RabbitExchange};

static COLLECTOR: LazyLock<Collector> = LazyLock::new(Collector::new);

const EXCHANGE: &str = "bench-ruststream";
const KEY: &str = "sonar";

#[subscriber(
    RabbitQueue::new("bench.ruststream.sonar")
        .durable(false)
        .auto_delete(true)
        .bind(RabbitExchange::topic("bench-ruststream"), "sonar"),
    workers(64)
)]
async fn take(reading: &Reading) -> HandlerOutcome {
    COLLECTOR.take(reading.phase, reading.sent_ns);
    HandlerOutcome::ack()
}

pub(crate) async fn subscribe(url: &str) -> anyhow::Result<()> {
    let broker = LapinBroker::new(url)
        .prefetch(nonzero!(64))
        .declare_topology(true);
    let app = RustStream::new(AppInfo::new("bench", "0.1.0")).with_broker(broker, |b| {
        b.include(take);
    });
    let running = app.start().await?;
    answer_collects(&COLLECTOR).await?;
    running.shutdown().await?;
    Ok(())
}

pub(crate) async fn publish(url: &str) -> anyhow::Result<()> {
    let connected = LapinBroker::new(url).connect().await?;
    let publisher = connected.publisher(LapinPublish::default().exchange(EXCHANGE));
    drive_publisher(Exchange(publisher)).await
}

#[derive(Clone)]
struct Exchange(LapinPublisher);

impl BenchPublisher for Exchange {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        self.0
            .publish(OutgoingMessage::new(KEY, message.as_slice()), None)
            .await?;
        Ok(())
    }
}
