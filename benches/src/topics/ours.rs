//! commlib itself, as its users write it.

use commlib::Node;
use commlib::topic::{Captures, Subscription};
use commlib_bench_protocol::{
    Collector, Fault, Publisher, Reading, answer_collects, drive_publisher, drive_publisher_in_process,
};

use crate::systems::Variant;

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

impl Sonar {
    /// Counts it as received.
    pub(super) fn count(&self, collector: &Collector) {
        collector.take(self.phase, self.sent_ns);
    }
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
    /// A reading of one of many.
    #[topic("many.{index}")]
    async fn many(&self, index: u32, reading: Sonar);
}

async fn collect(node: &Node, variant: Variant) -> anyhow::Result<Collector> {
    let collector = Collector::new();
    let subscriber = SensorsSubscriber::new(node);
    if variant.subscriptions == 1 {
        let readings = subscriber.sonar().await?;
        tokio::spawn(read(readings, collector.clone()));
    } else {
        for index in 0..variant.subscriptions {
            let readings = subscriber.many(index as u32).await?;
            tokio::spawn(read(readings, collector.clone()));
        }
    }
    Ok(collector)
}

async fn read<C: Captures>(mut readings: Subscription<Sonar, C>, collector: Collector) {
    while let Some(received) = readings.next().await {
        match received {
            Ok(received) => received.message.count(&collector),
            Err(notice) => collector.fault(&notice.to_string()),
        }
    }
}

/// Subscribes with the default settings until the input ends.
pub(crate) async fn subscribe(url: &str, variant: Variant) -> anyhow::Result<()> {
    let collector = collect(&Node::connect(url).await?, variant).await?;
    for _ in 1..variant.fan_out {
        // A subscription keeps its node.
        let readings = SensorsSubscriber::new(&Node::connect(url).await?).sonar().await?;
        tokio::spawn(read(readings, collector.clone()));
    }
    answer_collects(&collector).await
}

/// Publishes with the default settings but for `unconfirmed`; over `memory://`, to a subscriber of its own.
pub(crate) async fn publish(url: &str, variant: Variant, unconfirmed: bool) -> anyhow::Result<()> {
    let node = Node::connect(url).await?;
    let publisher = OurPublisher {
        publisher: SensorsPublisher::new(&node),
        topics: variant.subscriptions as u64,
        unconfirmed,
    };
    if url.starts_with("memory:") {
        drive_publisher_in_process(publisher, &collect(&node, variant).await?).await
    } else {
        drive_publisher(publisher).await
    }
}

#[derive(Clone)]
struct OurPublisher {
    publisher: SensorsPublisher,
    topics: u64,
    unconfirmed: bool,
}

impl Publisher for OurPublisher {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let publish = if self.topics == 1 {
            self.publisher.sonar(reading.into())
        } else {
            let index = reading.seq % self.topics;
            self.publisher.many(index as u32, reading.into())
        };
        if self.unconfirmed {
            publish.unconfirmed().await?;
        } else {
            publish.await?;
        }
        Ok(())
    }
}
