//! Publishes readings of a sonar on `sensors.sonar.<side>`.
//!
//! ```text
//! export COMMLIB_URL=redis://127.0.0.1
//! cargo run -q -p commlib-examples --example sensors_publisher -- front 10
//! ```
//!
//! Each message is `{"range": 1.25, "hfov": 30.0, "vfov": 14.2, "seq": 5}`, `seq` counting from 0. A message reaches
//! those who listen at that moment (see `sensors_subscriber`) and is not kept for others. Exit codes are those of
//! [`commlib_examples::cli`].

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use commlib_examples::cli::{self, Failure};
use commlib_examples::{SensorsPublisher, Sonar};

/// Publishes COUNT readings on `sensors.sonar.<TOPIC_SIDE>` on the broker of COMMLIB_URL.
///
/// Exit codes: 0 the broker has taken all, 2 wrong use, 5 any other failure, 6 broker not reachable.
#[derive(Parser)]
struct Args {
    /// The last level of the topic, such as `front`: letters, digits, `_` and `-`
    #[arg(value_name = "TOPIC_SIDE")]
    side: String,
    /// How many readings
    count: u64,
    /// Time between two readings, such as `100ms` [default: none]
    #[arg(long, value_parser = cli::duration, default_value = "0s", hide_default_value = true)]
    every: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::end(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), Failure> {
    let node = cli::connect_to_broker().await?;
    let sensors = SensorsPublisher::new(&node);
    for seq in 0..args.count {
        if seq > 0 && !args.every.is_zero() {
            tokio::time::sleep(args.every).await;
        }
        sensors.sonar(args.side.clone(), reading(seq)).await?;
    }
    node.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// A robot that goes to and fro in front of a wall.
fn reading(seq: u64) -> Sonar {
    let step = u32::try_from(seq % 20).unwrap_or_default();
    Sonar {
        range: 0.5 + 0.25 * f64::from(step.min(20 - step)),
        hfov: 30.0,
        vfov: 14.2,
        seq,
    }
}
