//! Request/reply of RustStream on RabbitMQ: prefetch 64 as in its guides, `workers(64)`, one per prefetched request.

use std::time::Duration;

use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use ruststream::OutgoingMessage;
use ruststream::codec::{Codec as _, JsonCodec};
use ruststream_lapin::prelude::*;
use ruststream_lapin::{ConnectedLapinBroker, LapinRequest, LapinRequester};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Deserialize, Serialize, Outgoing)]
struct AddArgs {
    a: i64,
    b: i64,
}

#[derive(Debug, PartialEq, Deserialize, Serialize, Outgoing)]
struct Sum {
    c: i64,
}

#[derive(Debug, PartialEq, Deserialize, Serialize, Outgoing)]
struct Text {
    text: String,
}

const ADD: &str = "bench.ruststream.add";
const ECHO: &str = "bench.ruststream.echo";

#[subscriber(
    RabbitQueue::new("bench.ruststream.add").durable(false).auto_delete(true),
    workers(64),
    reply("bench.ruststream.unrouted")
)]
async fn add(args: &AddArgs) -> Sum {
    Sum { c: args.a + args.b }
}

#[subscriber(
    RabbitQueue::new("bench.ruststream.echo").durable(false).auto_delete(true),
    workers(64),
    reply("bench.ruststream.unrouted")
)]
async fn echo(args: &Text) -> Text {
    Text {
        text: args.text.clone(),
    }
}

pub(crate) async fn serve(url: &str) -> anyhow::Result<()> {
    let broker = LapinBroker::new(url)
        .prefetch(nonzero!(64))
        .declare_topology(true);
    let app = RustStream::new(AppInfo::new("bench", "0.1.0")).with_broker(broker, |b| {
        b.include(add)
            .out_reply(Publish::default())
            .transform(DirectReplyTo);
        b.include(echo)
            .out_reply(Publish::default())
            .transform(DirectReplyTo);
    });
    let running = app.start().await?;
    say("ready")?;
    Lines::stdin().end().await;
    running.shutdown().await?;
    Ok(())
}

pub(crate) async fn drive(url: &str) -> anyhow::Result<()> {
    let connected: ConnectedLapinBroker = LapinBroker::new(url).connect().await?;
    drive_rpc(Client(connected.requester(LapinRequest::default()))).await
}

#[derive(Clone)]
struct Client(LapinRequester);

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Client {
    async fn call<A: Serialize, R: DeserializeOwned>(&self, queue: &str, args: &A) -> Result<R, Fault> {
        let request = JsonCodec.encode(args)?;
        let message = OutgoingMessage::new(queue, request.as_ref());
        let reply = self.0.request(message, Duration::from_secs(10)).await?;
        Ok(JsonCodec.decode(reply.payload())?)
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<_, Sum>(ADD, &AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<_, Text>(ECHO, &Text { text }).await?.text)
    }
}
