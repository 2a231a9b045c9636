//! commlib itself, as its users write it.

use commlib::Node;
use commlib_bench_protocol::{
    Collector, Fault, Publisher, Reading, answer_collects, drive_publisher, drive_publisher_in_process,
};

/// A reading as this contract has it; the fields are those of [`Reading`].
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub(crate) struct Sonar {
    phase: u32,
    seq: u64,
    sent_ns: u64,
    range: f64,
    angle: f64,
    text: String,
}

impl From<Reading> for Sonar {
    fn from(reading: Reading) -> Self {
        let Reading {
            phase,
            seq,
            sent_ns,
            range,
            angle,
            text,
        } = reading;
        Self {
            phase,
            seq,
            sent_ns,
            range,
            angle,
            text,
        }
    }
}

/// What is published.
#[commlib::topic(prefix = "bench")]
pub(crate) trait Sensors {
    /// A reading.
    async fn sonar(&self, reading: Sonar);
}

async fn collect(node: &Node) -> anyhow::Result<Collector> {
    let collector = Collector::new();
    let mut readings = SensorsSubscriber::new(node).sonar().await?;
    let taken = collector.clone();
    tokio::spawn(async move {
        while let Some(received) = readings.next().await {
            match received {
                Ok(received) => taken.take(received.message.phase, received.message.sent_ns),
                Err(notice) => taken.fault(&notice.to_string()),
            }
        }
    });
    Ok(collector)
}

/// Subscribes with the default settings until the input ends.
pub(crate) async fn subscribe(url: &str) -> anyhow::Result<()> {
    let node = Node::connect(url).await?;
    answer_collects(&collect(&node).await?).await
}

/// Publishes with the default settings; over `memory://`, to a subscriber of its own.
pub(crate) async fn publish(url: &str) -> anyhow::Result<()> {
    let node = Node::connect(url).await?;
    let publisher = OurPublisher(SensorsPublisher::new(&node));
    if url.starts_with("memory:") {
        drive_publisher_in_process(publisher, &collect(&node).await?).await
    } else {
        drive_publisher(publisher).await
    }
}

#[derive(Clone)]
struct OurPublisher(SensorsPublisher);

impl Publisher for OurPublisher {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        self.0.sonar(reading.into()).await?;
        Ok(())
    }
}
