//! Prints every message of the topics that a pattern selects, as one line of JSON each.
//!
//! ```text
//! export COMMLIB_URL=redis://127.0.0.1
//! cargo run -q -p commlib-examples --example sensors_subscriber -- 'sensors.sonar.*' --count 10
//! ```
//!
//! `*` is exactly one level of a topic, a final `#` any number of levels. Prints `ready` once it is subscribed, then
//! `{"topic": "sensors.sonar.front", "data": {…}}` for each message, whatever its type; the typed subscriber of a contract
//! is shown by `quickstart`. Notices about missed messages go to standard error. Exit codes are those of
//! [`commlib_examples::cli`].

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use commlib::Pattern;
use commlib::topic::TopicSubscriber;
use commlib_examples::cli::{self, Failure};
use serde::Serialize;
use serde_json::Value;

/// Prints the messages of the topics that PATTERN selects on the broker of COMMLIB_URL: `ready`, then one line of JSON each.
///
/// Ends after N messages, or on SIGTERM or Ctrl-C. Exit codes: 0, 2 wrong use, 5 any other failure, 6 broker not reachable.
#[derive(Parser)]
struct Args {
    /// Such as `sensors.sonar.*` or `sensors.#`: `*` is one level, a final `#` any number
    pattern: Pattern,
    /// Ends after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// A printed message.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    data: &'a Value,
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::end(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), Failure> {
    let node = cli::connect_to_broker().await?;
    // Before `ready`: whoever waits for that may send a signal at once.
    let mut terminated = pin!(commlib::signal::terminated()?);
    let mut messages = TopicSubscriber::new(&node)
        .pattern::<Value>(args.pattern)
        .buffer(10_000)
        .await?;
    cli::print("ready")?;
    let mut left = args.count;
    while left != Some(0) {
        let message = tokio::select! {
            message = messages.next() => message,
            () = &mut terminated => break,
        };
        match message {
            Some(Ok(received)) => {
                let line = Line {
                    topic: &received.topic,
                    data: &received.message,
                };
                cli::print(serde_json::to_string(&line).map_err(std::io::Error::from)?)?;
                left = left.map(|left| left - 1);
            }
            Some(Err(notice)) => eprintln!("{notice}"),
            None => break,
        }
    }
    node.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
