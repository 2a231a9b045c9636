//! The best scheme by hand on the redis crate: one reply list per client with correlation ids, both ends drain their
//! list, the server pushes the replies of a batch in the same write as its next pop, the client pushes what is queued
//! in one command.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use commlib_bench_protocol::{Fault, Lines, RpcClient, RpcWorker, drive_rpc, say};
use parking_lot::Mutex;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::{OnceCell, mpsc, oneshot};

use super::redis_naive::{Envelope, Header, answer, connect, list};
use super::{Add, AddArgs, Echo, EchoArgs, Method};

/// How many messages one command takes or pushes.
const BATCH: usize = 64;

pub(crate) async fn serve(url: &str) -> anyhow::Result<()> {
    serve_method::<Add>(url).await?;
    serve_method::<Echo>(url).await?;
    say("ready")?;
    Lines::stdin().end().await;
    Ok(())
}

async fn serve_method<M: Method>(url: &str) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    let _: () = connection.del(list::<M>()).await?;
    tokio::spawn(async move {
        if let Err(error) = serve_loop::<M>(connection).await {
            eprintln!("the server ended: {error:#}");
        }
    });
    Ok(())
}

type Popped = (String, Vec<Vec<u8>>);

async fn serve_loop<M: Method>(mut connection: MultiplexedConnection) -> anyhow::Result<()> {
    let list = list::<M>();
    let mut replies: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    loop {
        let mut pipe = redis::pipe();
        for (reply_to, replies) in replies.drain(..) {
            pipe.rpush(reply_to, replies).ignore();
        }
        pop(&mut pipe, &list);
        let ((_, requests),): (Popped,) = pipe.query_async(&mut connection).await?;
        for request in requests {
            let (reply_to, reply) = answer::<M>(&request)?;
            match replies.iter_mut().find(|(to, _)| *to == reply_to) {
                Some((_, replies)) => replies.push(reply),
                None => replies.push((reply_to, vec![reply])),
            }
        }
    }
}

fn pop(pipe: &mut redis::Pipeline, list: &str) {
    pipe.cmd("BLMPOP")
        .arg(0)
        .arg(1)
        .arg(list)
        .arg("LEFT")
        .arg("COUNT")
        .arg(BATCH);
}

pub(crate) async fn drive(url: &str) -> anyhow::Result<()> {
    drive_rpc(Client(Arc::new(Lists {
        url: url.to_owned(),
        add: OnceCell::new(),
        echo: OnceCell::new(),
    })))
    .await
}

/// A caller knows the type of its replies by the list that it has them sent to.
struct Lists {
    url: String,
    add: OnceCell<Caller<Add>>,
    echo: OnceCell<Caller<Echo>>,
}

#[derive(Clone)]
struct Client(Arc<Lists>);

impl RpcClient for Client {
    type Worker = Self;

    async fn worker(&self) -> Result<Self, Fault> {
        Ok(self.clone())
    }
}

impl RpcWorker for Client {
    async fn add(&mut self, a: i64, b: i64) -> Result<i64, Fault> {
        let caller = self.0.add.get_or_try_init(|| Caller::start(&self.0.url)).await?;
        Ok(caller.call(AddArgs { a, b }).await?.c)
    }

    async fn echo(&mut self, text: &str) -> Result<String, Fault> {
        let caller = self.0.echo.get_or_try_init(|| Caller::start(&self.0.url)).await?;
        let text = text.to_owned();
        Ok(caller.call(EchoArgs { text }).await?.text)
    }
}

type Waiting<M> = Arc<Mutex<HashMap<u64, oneshot::Sender<<M as Method>::Reply>>>>;

struct Caller<M: Method> {
    reply_to: String,
    requests: mpsc::Sender<Vec<u8>>,
    waiting: Waiting<M>,
    next: AtomicU64,
}

impl<M: Method> Caller<M> {
    async fn start(url: &str) -> Result<Self, Fault> {
        let reply_to = format!("bench.replies.{}.{}", M::NAME, std::process::id());
        let waiting: Waiting<M> = Arc::default();
        let (requests, queued) = mpsc::channel(1024);
        tokio::spawn(report(push_loop(connect(url).await?, list::<M>(), queued)));
        tokio::spawn(report(reply_loop::<M>(
            connect(url).await?,
            reply_to.clone(),
            Arc::clone(&waiting),
        )));
        Ok(Self {
            reply_to,
            requests,
            waiting,
            next: AtomicU64::new(1),
        })
    }

    async fn call(&self, data: M::Args) -> Result<M::Reply, Fault> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let header = Header {
            reply_to: self.reply_to.clone(),
            id,
        };
        let request = serde_json::to_vec(&Envelope { header, data })?;
        let (caller, reply) = oneshot::channel();
        self.waiting.lock().insert(id, caller);
        self.requests
            .send(request)
            .await
            .ok()
            .context("the writer is gone")?;
        Ok(reply.await?)
    }
}

async fn report(work: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = work.await {
        eprintln!("the client's loop ended: {error:#}");
    }
}

async fn push_loop(
    mut connection: MultiplexedConnection,
    list: String,
    mut queued: mpsc::Receiver<Vec<u8>>,
) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        let _: () = connection.rpush(&list, &batch).await?;
        batch.clear();
    }
    Ok(())
}

async fn reply_loop<M: Method>(
    mut connection: MultiplexedConnection,
    reply_to: String,
    waiting: Waiting<M>,
) -> anyhow::Result<()> {
    loop {
        let mut pipe = redis::pipe();
        pop(&mut pipe, &reply_to);
        let ((_, replies),): (Popped,) = pipe.query_async(&mut connection).await?;
        for reply in replies {
            let reply: Envelope<M::Reply> = serde_json::from_slice(&reply)?;
            if let Some(caller) = waiting.lock().remove(&reply.header.id) {
                let _ = caller.send(reply.data);
            }
        }
    }
}
