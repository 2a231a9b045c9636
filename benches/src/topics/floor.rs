//! The floor in process: a bounded channel, JSON both ways.

use anyhow::Context as _;
use commlib_bench_protocol::{Collector, Fault, Publisher, Reading, drive_publisher_in_process};
use tokio::sync::mpsc;

pub(crate) async fn publish() -> anyhow::Result<()> {
    let (sender, mut messages) = mpsc::channel::<Vec<u8>>(1024);
    let collector = Collector::new();
    let taken = collector.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            taken.take_json(&message);
        }
    });
    drive_publisher_in_process(Channel(sender), &collector).await
}

#[derive(Clone)]
struct Channel(mpsc::Sender<Vec<u8>>);

impl Publisher for Channel {
    async fn publish(&self, reading: Reading) -> Result<(), Fault> {
        let message = serde_json::to_vec(&reading)?;
        self.0.send(message).await.ok().context("the subscriber is gone")
    }
}
