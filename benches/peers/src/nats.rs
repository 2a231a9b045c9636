//! Request/reply on NATS: JSON bodies, an inline loop per subject that publishes replies, which async-nats batches.

use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use futures::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{AddArgs, Sum, Text};

pub(crate) async fn serve(url: &str) -> anyhow::Result<()> {
    let client = async_nats::connect(url).await?;
    let mut add = client.subscribe("bench.add").await?;
    let mut echo = client.subscribe("bench.echo").await?;
    // Known to the server before anybody calls.
    client.flush().await?;
    let replies = client.clone();
    tokio::spawn(async move {
        while let Some(request) = add.next().await {
            let work = answer(&replies, &request, |args: AddArgs| Sum { c: args.a + args.b });
            report(work.await);
        }
    });
    tokio::spawn(async move {
        while let Some(request) = echo.next().await {
            report(answer(&client, &request, |text: Text| text).await);
        }
    });
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

async fn answer<A: DeserializeOwned, R: Serialize>(
    client: &async_nats::Client,
    request: &async_nats::Message,
    run: impl FnOnce(A) -> R,
) -> anyhow::Result<()> {
    let Some(reply_to) = request.reply.clone() else {
        anyhow::bail!("a request without a reply subject");
    };
    let reply = serde_json::to_vec(&run(serde_json::from_slice(&request.payload)?))?;
    client.publish(reply_to, reply.into()).await?;
    Ok(())
}

fn report(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("a request was not answered: {error:#}");
    }
}

pub(crate) async fn drive(url: &str) -> anyhow::Result<()> {
    drive_rpc(Client(async_nats::connect(url).await?)).await
}

#[derive(Clone)]
struct Client(async_nats::Client);

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Client {
    async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        subject: &'static str,
        args: &A,
    ) -> Result<R, Fault> {
        let request = serde_json::to_vec(args)?;
        let reply = self.0.request(subject, request.into()).await?;
        Ok(serde_json::from_slice(&reply.payload)?)
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<_, Sum>("bench.add", &AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<_, Text>("bench.echo", &Text { text }).await?.text)
    }
}
