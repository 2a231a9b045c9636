//! Calls a method with JSON arguments and prints the reply as one line of JSON.
//!
//! ```text
//! export COMMLIB_URL=redis://127.0.0.1
//! cargo run -q -p commlib-examples --example calculator_client -- add '{"a": 1, "b": 2}'
//! cargo run -q -p commlib-examples --example calculator_client -- calculator.sleep '{"ms": 5000}' --timeout 2s
//! ```
//!
//! It calls without the contract, by the address of the method, and so reaches every service; `add` is short for
//! `calculator.add`. The typed client of a contract is shown by `quickstart`. The method's own error goes to standard
//! error as one line of JSON. Exit codes are those of [`commlib_examples::cli`].

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use commlib::rpc::{RpcClient, UntypedError};
use commlib::{Address, CallError};
use commlib_examples::cli::{self, Failure};
use serde_json::Value;

/// Calls METHOD with the arguments JSON on the broker of COMMLIB_URL, and prints the reply as one line of JSON.
///
/// Exit codes: 0 a reply, 1 the method's own error (JSON on standard error), 2 wrong use, 3 no reply in time, 4 nobody
/// serves the method, 5 any other failure, 6 broker not reachable.
#[derive(Parser)]
struct Args {
    /// Such as `calculator.add`, or `add` for short
    #[arg(value_parser = address)]
    method: Address,
    /// Such as '{"a": 1, "b": 2}'
    #[arg(value_name = "JSON", value_parser = json)]
    arguments: Value,
    /// How long to wait, such as `2s` or `500ms` [default: 10s]
    #[arg(long, value_parser = cli::duration)]
    timeout: Option<Duration>,
}

fn address(text: &str) -> Result<Address, String> {
    let full = if text.contains('.') {
        text.to_owned()
    } else {
        format!("calculator.{text}")
    };
    Address::new(full).map_err(|error| error.to_string())
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))
}

#[tokio::main]
async fn main() -> ExitCode {
    cli::end(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), Failure> {
    let node = cli::connect_to_broker().await?;
    let mut call = RpcClient::new(&node).call_untyped(args.method, &args.arguments);
    if let Some(timeout) = args.timeout {
        call = call.timeout(timeout);
    }
    let result = call.await;
    let connected = node.state().borrow().is_connected();
    // The reply is there or not, however the goodbye goes.
    let _ = node.shutdown(Duration::from_secs(2)).await;
    match result {
        Ok(reply) => Ok(cli::print(reply)?),
        Err(error) => Err(Failure::new(exit_code(&error, connected), error)),
    }
}

fn exit_code(error: &CallError<UntypedError>, connected: bool) -> u8 {
    match error {
        CallError::App(_) => Failure::TYPED,
        error if error.is_timeout() => Failure::TIMEOUT,
        error if error.is_no_responders() => Failure::NO_RESPONDERS,
        CallError::Status(_) if !connected => Failure::UNREACHABLE,
        _ => Failure::OTHER,
    }
}
