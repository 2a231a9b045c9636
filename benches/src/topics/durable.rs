//! commlib's durable topics: a group gets every message, acknowledged after its handler.

use commlib::Node;
use commlib_bench_protocol::{Collector, Fault, Publisher, Reading, answer_collects, drive_publisher};

use super::ours::Sonar;

/// The group that everything is kept for. Its own, so that a run begins with nothing waiting.
const GROUP: &str = "bench";

/// What is kept.
#[commlib::topic(prefix = "bench_durable")]
pub(crate) trait Log {
    /// A reading.
    #[topic("sonar", durable)]
    async fn sonar(&self, reading: Sonar);
}

struct Handler(Collector);

impl Log for Handler {
    async fn sonar(&self, reading: Sonar) {
        reading.count(&self.0);
    }
}

/// Handles with the default settings, so many messages at once, until the input ends.
pub(crate) async fn subscribe(url: &str, concurrency: usize) -> anyhow::Result<()> {
    let node = Node::connect(url).await?;
    let collector = Collector::new();
    node.serve(LogHandler::new(Handler(collector.clone())))
        .group(GROUP)
        .concurrency(concurrency)
        .await?;
    answer_collects(&collector).await
}

/// What the broker is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept {
    /// To say that it has stored the message.
    Default,
    /// To say that it has it in memory.
    Transient,
    /// To have it in memory, and say nothing.
    Unconfirmed,
}

/// Publishes.
pub(crate) async fn publish(url: &str, kept: Kept) -> anyhow::Result<()> {
    let node = Node::connect(url).await?;
    let publisher = LogPublisher::new(&node);
    drive_publisher(OurPublisher { publisher, kept }).await
}

#[derive(Clone)]
struct OurPublisher {
    publisher: LogPublisher,
    kept: Kept,
}

impl Publisher for OurPublisher {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let publish = self.publisher.sonar(reading.into());
        match self.kept {
            Kept::Default => publish.await?,
            Kept::Transient => publish.transient().await?,
            Kept::Unconfirmed => publish.transient().unconfirmed().await?,
        };
        Ok(())
    }
}
