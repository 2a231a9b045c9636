//! Serves `add`, calls it once, prints the sum: by hand on lapin.

use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    a: i64,
    b: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sum {
    c: i64,
}

async fn serve(channel: Channel, mut requests: Consumer) -> Result<(), Box<dyn Error + Send + Sync>> {
    while let Some(delivery) = requests.next().await {
        let delivery = delivery?;
        let request: Request = serde_json::from_slice(&delivery.data)?;
        let reply = serde_json::to_vec(&Sum {
            c: request.a + request.b,
        })?;
        let reply_to = delivery.properties.reply_to().clone().ok_or("no reply_to")?;
        let options = BasicPublishOptions::default();
        channel
            .basic_publish("".into(), reply_to, options, &reply, BasicProperties::default())
            .await?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("COMMLIB_URL")?;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let declare = QueueDeclareOptions {
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("size.add".into(), declare, FieldTable::default())
        .await?;
    let requests = channel
        .basic_consume(
            "size.add".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let server = tokio::spawn(serve(channel.clone(), requests));
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut replies = channel
        .basic_consume(
            "amq.rabbitmq.reply-to".into(),
            "".into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let request = serde_json::to_vec(&Request { a: 1, b: 2 })?;
    let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    channel
        .basic_publish(
            "".into(),
            "size.add".into(),
            BasicPublishOptions::default(),
            &request,
            properties,
        )
        .await?;
    let reply = tokio::time::timeout(Duration::from_secs(10), replies.next()).await?;
    let reply = reply.ok_or("the reply consumer ended")??;
    println!("{}", serde_json::from_slice::<Sum>(&reply.data)?.c);
    server.abort();
    Ok(())
}
