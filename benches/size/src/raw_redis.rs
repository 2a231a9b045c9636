//! Serves `add`, calls it once, prints the sum: by hand on the redis crate.

use std::error::Error;
use std::time::Duration;

use redis::AsyncCommands as _;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    reply_to: String,
    a: i64,
    b: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sum {
    c: i64,
}

async fn serve(
    mut connection: redis::aio::MultiplexedConnection,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        let (_, body): (String, Vec<u8>) = connection.blpop("size.add", 0.0).await?;
        let request: Request = serde_json::from_slice(&body)?;
        let sum = Sum {
            c: request.a + request.b,
        };
        let _: () = connection
            .rpush(request.reply_to, serde_json::to_vec(&sum)?)
            .await?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = redis::Client::open(std::env::var("COMMLIB_URL")?)?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let server = tokio::spawn(serve(connection));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let reply_to = "size.reply".to_owned();
    let request = serde_json::to_vec(&Request { reply_to, a: 1, b: 2 })?;
    let _: () = connection.rpush("size.add", request).await?;
    let reply = connection.blpop("size.reply", 0.0);
    let (_, reply): (String, Vec<u8>) = tokio::time::timeout(Duration::from_secs(10), reply).await??;
    println!("{}", serde_json::from_slice::<Sum>(&reply)?.c);
    server.abort();
    Ok(())
}
