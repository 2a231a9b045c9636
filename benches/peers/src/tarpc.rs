//! tarpc, in process over its own channel transport, which does not encode, and over TCP with JSON.

use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use futures::StreamExt as _;
use tarpc::client::{self, NewClient};
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Json;
use tarpc::{context, serde_transport, transport};

use self::service::{Bench, BenchClient};

/// The contract; the macro documents nothing of what it makes.
#[allow(missing_docs, reason = "made by the macro of tarpc")]
mod service {
    /// What every system of the bench does.
    #[tarpc::service]
    pub(crate) trait Bench {
        /// Adds two integers.
        async fn add(a: i64, b: i64) -> i64;
        /// Gives a text back.
        async fn echo(text: String) -> String;
    }
}

#[derive(Clone)]
struct Server;

impl Bench for Server {
    async fn add(self, _: context::Context, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn echo(self, _: context::Context, text: String) -> String {
        text
    }
}

pub(crate) async fn serve_tcp(address: &str) -> anyhow::Result<()> {
    let mut incoming = serde_transport::tcp::listen(address, Json::default).await?;
    incoming.config_mut().max_frame_length(usize::MAX);
    tokio::spawn(async move {
        while let Some(Ok(transport)) = incoming.next().await {
            tokio::spawn(
                BaseChannel::with_defaults(transport)
                    .execute(Server.serve())
                    .for_each(|response| async {
                        tokio::spawn(response);
                    }),
            );
        }
    });
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

pub(crate) async fn drive_tcp(address: &str) -> anyhow::Result<()> {
    let transport = serde_transport::tcp::connect(address, Json::default).await?;
    let NewClient { client, dispatch } = BenchClient::new(client::Config::default(), transport);
    tokio::spawn(dispatch);
    drive_rpc(Client(client)).await
}

pub(crate) async fn drive_in_process() -> anyhow::Result<()> {
    let (near, far) = transport::channel::unbounded();
    tokio::spawn(
        BaseChannel::with_defaults(far)
            .execute(Server.serve())
            .for_each(|response| async {
                tokio::spawn(response);
            }),
    );
    let client = BenchClient::new(client::Config::default(), near).spawn();
    drive_rpc(Client(client)).await
}

#[derive(Clone)]
struct Client(BenchClient);

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.0.add(context::current(), a, b).await?)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        Ok(self.0.echo(context::current(), text.to_owned()).await?)
    }
}
