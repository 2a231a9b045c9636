//! Serves the calculator until SIGTERM or Ctrl-C, then finishes the calls that it has taken.
//!
//! ```text
//! COMMLIB_URL=redis://127.0.0.1 cargo run -q -p commlib-examples --example calculator_server
//! ```
//!
//! - `calculator.add {"a": 1, "b": 2}` → `{"c": 3}`
//! - `calculator.div {"a": 1, "b": 2}` → `{"c": 0.5}`, or the typed error `{"type": "ByZero"}`
//! - `calculator.sleep {"ms": 100}` → `{"slept": 100}`
//!
//! Numbers are integers or not; a whole result is written without a fraction. Prints `ready` once it takes calls.
//! Start several: they share the calls. Exit codes are those of [`commlib_examples::cli`].

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use commlib::prelude::*;
use commlib_examples::cli::{self, Failure};
use commlib_examples::{Answer, Calculator, CalculatorServer, DivError, Slept};

/// Serves `calculator.add {a, b}`, `calculator.div {a, b}` and `calculator.sleep {ms}` on the broker of COMMLIB_URL.
///
/// Prints `ready` once it takes calls. SIGTERM and Ctrl-C end it after the calls that it has taken. Exit codes: 0,
/// 2 wrong use, 5 any other failure, 6 broker not reachable.
#[derive(Parser)]
struct Args {}

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

    async fn sleep(&self, ctx: &RequestContext, ms: u64) -> Slept {
        let begin = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => Slept { slept: ms },
            // Nobody waits for the answer any more, or the server must end: what it says is still true.
            () = ctx.canceled() => Slept {
                slept: u64::try_from(begin.elapsed().as_millis()).unwrap_or(ms),
            },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args {} = Args::parse();
    cli::end(run().await)
}

async fn run() -> Result<(), Failure> {
    let node = cli::connect_to_broker().await?;
    // Before `ready`: whoever waits for that may send a signal at once.
    let terminated = commlib::signal::terminated()?;
    node.serve(CalculatorServer::new(Calc)).await?;
    cli::print("ready")?;
    terminated.await;
    node.shutdown(Duration::from_secs(30)).await?;
    Ok(())
}
