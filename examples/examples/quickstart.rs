//! The whole of it in one process: write two contracts, serve one, call it, publish and receive on the other.
//!
//! ```text
//! cargo run -q -p commlib-examples --example quickstart
//! COMMLIB_URL=redis://127.0.0.1 cargo run -q -p commlib-examples --example quickstart
//! COMMLIB_URL=amqp://127.0.0.1 cargo run -q -p commlib-examples --example quickstart
//! ```
//!
//! It prints the same on every transport. Exit codes: 0, or as [`commlib_examples::cli`] says.

#![allow(
    missing_docs,
    reason = "the code is kept short; the same contracts with their documentation are in the library"
)]

use std::process::ExitCode;
use std::time::Duration;

use commlib_examples::cli::{self, Failure};

// What follows, up to `main`, is also in the README.
use commlib::prelude::*;
use std::error::Error;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    c: f64,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum DivError {
    #[error("division by zero")]
    ByZero,
}

#[commlib::rpc_service(name = "calculator")]
pub trait Calculator {
    /// Adds two numbers.
    #[rpc(idempotent)]
    async fn add(&self, a: f64, b: f64) -> Answer;

    /// Divides `a` by `b`.
    #[rpc(idempotent)]
    async fn div(&self, a: f64, b: f64) -> Result<Answer, DivError>;
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Sonar {
    range: f64,
    hfov: f64,
    vfov: f64,
    seq: u64,
}

#[commlib::topic(prefix = "sensors")]
pub trait Sensors {
    /// A reading of the sonar on one side.
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: String, reading: Sonar);
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: f64, b: f64) -> Answer {
        Answer { c: a + b }
    }

    async fn div(&self, a: f64, b: f64) -> Result<Answer, DivError> {
        match b {
            0.0 => Err(DivError::ByZero),
            _ => Ok(Answer { c: a / b }),
        }
    }
}

async fn quickstart(node: &Node) -> Result<(), Box<dyn Error>> {
    // A service: the trait is implemented above, served here, and called from anywhere.
    let server = node.serve(CalculatorServer::new(Calc)).await?;
    let calculator = CalculatorClient::new(node);
    println!("add(1, 2) = {}", calculator.add(1.0, 2.0).await?.c);
    match calculator.div(1.0, 0.0).await {
        Ok(answer) => println!("div(1, 0) = {}", answer.c),
        Err(CallError::App(DivError::ByZero)) => println!("div(1, 0) is an error: ByZero"),
        Err(error) => return Err(error.into()),
    }

    // Topics: the subscription is there once it is awaited, so it gets what is published then.
    let mut readings = SensorsSubscriber::new(node).sonar("front").await?;
    let reading = Sonar {
        range: 1.5,
        hfov: 30.0,
        vfov: 14.2,
        seq: 0,
    };
    SensorsPublisher::new(node)
        .sonar("front".to_owned(), reading)
        .await?;
    if let Some(received) = readings.next().await {
        let received = received?;
        println!("{}: {:?}", received.topic, received.message);
    }

    // Takes no more, finishes what was taken.
    server.shutdown().await?;
    Ok(())
}

/// Serves, calls, publishes and receives in one process, over the broker of COMMLIB_URL (default: memory://).
#[derive(clap::Parser)]
struct Args {}

#[tokio::main]
async fn main() -> ExitCode {
    let Args {} = clap::Parser::parse();
    cli::end(run().await)
}

async fn run() -> Result<(), Failure> {
    let node = Node::from_env().await?;
    let result = quickstart(&node).await;
    node.shutdown(Duration::from_secs(5)).await?;
    result.map_err(|error| Failure::new(Failure::OTHER, error))
}
