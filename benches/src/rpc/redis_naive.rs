//! RPC by hand on the redis crate, a list per call: the naive loop, and callers that save a round trip.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, AsyncConnectionConfig};
use serde::{Deserialize, Serialize};

use super::{Add, AddArgs, Echo, EchoArgs, Method};

/// A connection whose commands may block for as long as they like.
pub(crate) async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The list that requests for a method of a hand-written server wait in.
pub(crate) fn list<M: Method>() -> String {
    format!("bench.raw.{}", M::NAME)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    pub(crate) header: Header,
    pub(crate) data: T,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reply_to: String,
    pub(crate) id: u64,
}

/// Takes one request, runs it, pushes its reply, takes the next.
pub(crate) async fn serve(url: &str) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    let _: () = connection.del(&[list::<Add>(), list::<Echo>()]).await?;
    tokio::spawn(async move {
        if let Err(error) = serve_loop(connection).await {
            eprintln!("the server ended: {error:#}");
        }
    });
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

async fn serve_loop(mut connection: MultiplexedConnection) -> anyhow::Result<()> {
    let lists = [list::<Add>(), list::<Echo>()];
    loop {
        let (list, body): (String, Vec<u8>) = connection.blpop(&lists, 0.0).await?;
        let (reply_to, reply) = if list == lists[0] {
            answer::<Add>(&body)?
        } else {
            answer::<Echo>(&body)?
        };
        let _: () = connection.rpush(reply_to, reply).await?;
    }
}

/// Where the reply to a request goes, and the reply.
pub(crate) fn answer<M: Method>(body: &[u8]) -> serde_json::Result<(String, Vec<u8>)> {
    let request: Envelope<M::Args> = serde_json::from_slice(body)?;
    let header = Header {
        reply_to: String::new(),
        id: request.header.id,
    };
    let data = M::run(request.data);
    let reply = serde_json::to_vec(&Envelope { header, data })?;
    Ok((request.header.reply_to, reply))
}

/// How callers with a list per call work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Push, pop and delete, one after the other, as it is done naively.
    Naive,
    /// Push and pop in one write; an emptied list is gone by itself.
    OneWrite,
    /// As `OneWrite`, in the envelope of commlib-py, to a server of commlib.
    CommlibPy,
}

pub(crate) async fn drive(url: &str, caller: Caller) -> anyhow::Result<()> {
    drive_rpc(Client {
        url: url.to_owned(),
        caller,
        next: Arc::default(),
    })
    .await
}

struct Client {
    url: String,
    caller: Caller,
    next: Arc<AtomicU64>,
}

impl RpcClient for Client {
    type Worker = Worker;

    async fn worker(&self) -> Result<Worker, Fault> {
        Ok(Worker {
            connection: connect(&self.url).await?,
            caller: self.caller,
            next: Arc::clone(&self.next),
        })
    }
}

/// A caller with a connection of its own: a blocking pop has it for itself.
struct Worker {
    connection: MultiplexedConnection,
    caller: Caller,
    next: Arc<AtomicU64>,
}

#[derive(Serialize)]
struct PyRequest<T> {
    header: PyHeader,
    data: T,
}

#[derive(Serialize)]
struct PyHeader {
    reply_to: String,
    correlation_id: Option<String>,
    timestamp: u64,
    content_type: &'static str,
    encoding: &'static str,
    agent: &'static str,
}

#[derive(Deserialize)]
struct PyReply<T> {
    data: T,
}

impl Worker {
    async fn call<M: Method>(&mut self, args: M::Args) -> Result<M::Reply, Fault> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let reply_to = format!("rpc-{:016x}{id:016x}", std::process::id());
        if self.caller == Caller::CommlibPy {
            let header = PyHeader {
                reply_to: reply_to.clone(),
                correlation_id: None,
                timestamp: commlib_bench_protocol::now_ns(),
                content_type: "json",
                encoding: "utf8",
                agent: "commlib",
            };
            let request = serde_json::to_vec(&PyRequest { header, data: args })?;
            let list = format!("bench.{}", M::NAME);
            let reply = self.push_and_pop(&list, &reply_to, request).await?;
            let reply: PyReply<M::Reply> = serde_json::from_slice(&reply)?;
            return Ok(reply.data);
        }
        let header = Header {
            reply_to: reply_to.clone(),
            id,
        };
        let request = serde_json::to_vec(&Envelope { header, data: args })?;
        let reply = if self.caller == Caller::Naive {
            let _: () = self.connection.rpush(list::<M>(), request).await?;
            let (_, reply): (String, Vec<u8>) = self.connection.blpop(&reply_to, 0.0).await?;
            let _: () = self.connection.del(&reply_to).await?;
            reply
        } else {
            self.push_and_pop(&list::<M>(), &reply_to, request).await?
        };
        let reply: Envelope<M::Reply> = serde_json::from_slice(&reply)?;
        anyhow::ensure!(reply.header.id == id, "the reply is for call {}", reply.header.id);
        Ok(reply.data)
    }

    async fn push_and_pop(&mut self, list: &str, reply_to: &str, request: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let ((_, reply),): ((String, Vec<u8>),) = redis::pipe()
            .rpush(list, request)
            .ignore()
            .blpop(reply_to, 0.0)
            .query_async(&mut self.connection)
            .await?;
        Ok(reply)
    }
}

impl RpcWorker for Worker {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        Ok(self.call::<Add>(AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let text = text.to_owned();
        Ok(self.call::<Echo>(EchoArgs { text }).await?.text)
    }
}
