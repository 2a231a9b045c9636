//! The floor in process: a channel to a task, a oneshot back, and JSON both ways; a task per request.

use anyhow::Context as _;
use commlib_bench_protocol::{Fault, RpcClient, RpcWorker, drive_rpc};
use tokio::sync::{mpsc, oneshot};

use super::{Add, AddArgs, Echo, EchoArgs, Method};

struct Request {
    method: &'static str,
    body: Vec<u8>,
    reply: oneshot::Sender<Vec<u8>>,
}

pub(crate) async fn drive() -> anyhow::Result<()> {
    let (sender, mut requests) = mpsc::channel::<Request>(1024);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            tokio::spawn(async move {
                let reply = if request.method == Add::NAME {
                    answer::<Add>(&request.body)
                } else {
                    answer::<Echo>(&request.body)
                };
                // Without an answer the caller sees that the channel is gone.
                if let Ok(reply) = reply {
                    let _ = request.reply.send(reply);
                }
            });
        }
    });
    drive_rpc(Client(sender)).await
}

fn answer<M: Method>(body: &[u8]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&M::run(serde_json::from_slice(body)?))
}

#[derive(Clone)]
struct Client(mpsc::Sender<Request>);

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl Client {
    async fn call<M: Method>(&self, args: &M::Args) -> Result<M::Reply, Fault> {
        let (reply, answer) = oneshot::channel();
        let body = serde_json::to_vec(args)?;
        let request = Request {
            method: M::NAME,
            body,
            reply,
        };
        self.0.send(request).await.ok().context("the server is gone")?;
        Ok(serde_json::from_slice(&answer.await?)?)
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<Add>(&AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<Echo>(&EchoArgs { text }).await?.text)
    }
}
