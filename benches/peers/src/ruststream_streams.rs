//! Redis Streams of RustStream: 64 appends in flight, batches of 64, `.pipeline()`; every entry is acked.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::LazyLock;

use commlib_bench_protocol::{
    Collector, Fault, Publisher as BenchPublisher, Reading, answer_collects, drive_publisher,
};
use ruststream::OutgoingMessage;
use ruststream_fred::RedisPublisher;
use ruststream_fred::stream::prelude::*;

static COLLECTOR: LazyLock<Collector> = LazyLock::new(Collector::new);

const STREAM: &str = "bench.ruststream.sonar";

#[subscriber(RedisStream::new("bench.ruststream.sonar").group("bench"))]
async fn take(readings: &[Reading]) -> HandlerOutcome {
    for reading in readings {
        COLLECTOR.take(reading.phase, reading.sent_ns);
    }
    HandlerOutcome::ack()
}

/// Starts on an empty stream: this library never trims one.
fn empty(url: &str) -> anyhow::Result<()> {
    let address = url.trim_start_matches("redis://").trim_end_matches('/');
    let mut redis = TcpStream::connect(address)?;
    redis.write_all(format!("DEL {STREAM}\r\n").as_bytes())?;
    let mut reply = [0; 4];
    redis.read_exact(&mut reply)?;
    anyhow::ensure!(reply[0] == b':', "redis did not delete the old stream");
    Ok(())
}

pub(crate) async fn subscribe(url: &str) -> anyhow::Result<()> {
    empty(url)?;
    let broker = RedisBroker::standalone(url);
    let app = RustStream::new(AppInfo::new("bench", "0.1.0")).with_broker(broker, |b| {
        b.include(take.batch(nonzero!(64)).pipeline());
    });
    let running = app.start().await?;
    answer_collects(&COLLECTOR).await?;
    running.shutdown().await?;
    Ok(())
}

pub(crate) async fn publish(url: &str) -> anyhow::Result<()> {
    let connected = RedisBroker::standalone(url).connect().await?;
    drive_publisher(Stream(connected.publisher())).await
}

#[derive(Clone)]
struct Stream(RedisPublisher);

impl BenchPublisher for Stream {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        self.0
            .publish(OutgoingMessage::new(STREAM, message.as_slice()), None)
            .await?;
        Ok(())
    }
}
