//! Serves `add`, calls it once, prints the sum: with commlib, one backend.

use std::error::Error;

use commlib::prelude::*;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Sum {
    c: i64,
}

#[commlib::rpc_service(name = "size")]
trait Calculator {
    /// Adds two integers.
    async fn add(&self, a: i64, b: i64) -> Sum;
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> Sum {
        Sum { c: a + b }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::from_env().await?;
    let server = node.serve(CalculatorServer::new(Calc)).await?;
    println!("{}", CalculatorClient::new(&node).add(1, 2).await?.c);
    server.shutdown().await?;
    Ok(())
}
