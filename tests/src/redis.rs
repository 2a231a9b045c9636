//! Real Redis servers.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocking::blocking;
use crate::log::LogTail;
use crate::net;
use crate::process::Process;
use crate::reaper::{self, Reaper};
use crate::resp::{Reply, RespClient};
use crate::slot::Slot;
use crate::{Signal, TempDir, shared};

const START_LIMIT: Duration = Duration::from_secs(120);

/// Where a Redis server is and how to look at it.
#[derive(Debug, Clone)]
pub struct RedisNode {
    port: u16,
    folder: PathBuf,
}

impl RedisNode {
    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The URL for a client that goes through another port of 127.0.0.1, such as that of a fault proxy.
    pub fn url_at(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}")
    }

    /// `redis+unix://PATH` of the socket that the server listens on too.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.folder.join("redis.sock").display())
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends one command over a new connection.
    ///
    /// # Panics
    /// When Redis can't be reached or does not answer within 30 s.
    pub async fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        self.client().await.command(args).await
    }

    /// A new connection, for what has to be on one connection.
    ///
    /// # Panics
    /// When Redis can't be reached.
    pub async fn client(&self) -> RespClient {
        RespClient::connect(self.port).await
    }

    /// The names of all keys that match the glob `pattern`, sorted.
    ///
    /// # Panics
    /// When Redis can't be reached.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = self.command(&["KEYS", pattern]).await.strings();
        keys.sort();
        keys
    }

    fn log(&self) -> PathBuf {
        self.folder.join("redis.log")
    }

    fn ping(&self) -> Result<(), String> {
        // While it reads its data again it says so in place of the answer.
        let answer = net::ask(self.port, b"PING\r\n", |answer| answer.ends_with(b"\r\n"))?;
        match answer.starts_with(b"+PONG\r\n") {
            true => Ok(()),
            false => Err(format!("it answers {:?}", String::from_utf8_lossy(&answer))),
        }
    }

    /// Starts the server process on this port and waits until it answers.
    fn boot<'a>(&self, args: &[String], reaper: &'a Reaper) -> Result<Process<'a>, String> {
        let tail = LogTail::from_now("redis-server", &self.log());
        let mut command = Command::new(crate::locate::program("redis-server", &[], "redis-server"));
        command
            .current_dir(&self.folder)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command
            .args(["--unixsocket", "redis.sock", "--unixsocketperm", "700", "--dir"])
            .arg(&self.folder);
        // What was acknowledged survives a kill: the file is written before the reply is sent.
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
        command.args(args);
        let process = Process::start_logged(&command, &self.log(), reaper);
        let end = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.ping() else {
                return Ok(process);
            };
            if let Some(status) = process.status() {
                return Err(format!("redis-server ended with {status}\n{}", tail.text()));
            }
            if Instant::now() > end {
                return Err(format!(
                    "redis-server not ready after {START_LIMIT:?}: {error}\n{}",
                    tail.text()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Boots on a free port, and on another one if somebody takes it meanwhile.
    fn start<'a>(folder: &Path, args: &[String], reaper: &'a Reaper) -> (Self, Process<'a>) {
        let mut tries = 0;
        loop {
            let node = Self {
                port: net::free_port(),
                folder: folder.to_owned(),
            };
            tries += 1;
            match node.boot(args, reaper) {
                Ok(process) => return (node, process),
                Err(error) if tries < 3 && error.contains("in use") => {}
                Err(error) => panic!("could not start Redis: {error}"),
            }
        }
    }
}

/// A Redis server of one test, which may stop, kill and freeze it. It ends when this value is dropped.
///
/// Acknowledged writes survive [`kill`](Self::kill) and [`restart`](Self::restart) unless
/// [`start_with`](Self::start_with) says otherwise.
#[derive(Debug)]
pub struct RedisServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Fields are dropped in this order: the process goes before its folder.
    slot: Slot,
    node: RedisNode,
    args: Vec<String>,
    log: LogTail,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts a server on a free port and waits until it answers.
    ///
    /// # Panics
    /// When it does not start; the message holds the end of its log.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Like [`start`](Self::start) with more arguments for `redis-server`, such as
    /// `["--appendonly", "no"]` for a server that forgets everything when it ends.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        blocking(move || {
            let folder = TempDir::new("redis");
            let (node, process) = RedisNode::start(folder.path(), &args, reaper::own());
            let log = LogTail::from_now("redis-server", &node.log());
            let slot = Slot::new("redis-server", process);
            Self {
                inner: Arc::new(Inner {
                    slot,
                    node,
                    args,
                    log,
                    _folder: folder,
                }),
            }
        })
        .await
    }

    /// The server that all tests of this run share; keep apart by [`unique`](crate::unique) names.
    ///
    /// # Panics
    /// When it does not start, or has ended since.
    pub async fn shared() -> SharedRedis {
        blocking(|| {
            shared::lease(
                "redis",
                |folder, reaper| {
                    let (node, process) = RedisNode::start(folder, &[], reaper);
                    process.release();
                    node.port.to_string()
                },
                |folder, port| {
                    let port = port.parse().unwrap_or_else(|_| panic!("not a port: {port:?}"));
                    let node = RedisNode {
                        port,
                        folder: folder.to_owned(),
                    };
                    let log = LogTail::from_now("the shared redis-server", &node.log());
                    if let Err(error) = node.ping() {
                        panic!(
                            "the shared Redis no longer answers: {error}\n{}",
                            log.whole().text()
                        );
                    }
                    SharedRedis { node, log }
                },
            )
        })
        .await
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.slot.pid()
    }

    /// Ends it in order (SIGTERM). No effect when it does not run.
    ///
    /// # Panics
    /// When it has not ended after 30 s.
    pub async fn stop(&self) {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.slot.stop()).await;
    }

    /// Ends it at once (SIGKILL). No effect when it does not run.
    pub async fn kill(&self) {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.slot.kill()).await;
    }

    /// Stops it in order if it runs, and starts it again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not stop or start.
    pub async fn restart(&self) {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.slot.stop();
            let process = inner.node.boot(&inner.args, reaper::own());
            inner
                .slot
                .replace(process.unwrap_or_else(|error| panic!("could not restart Redis: {error}")));
        })
        .await;
    }

    /// Freezes it (SIGSTOP): connections stay, nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.inner.slot.signal(Signal::SIGSTOP);
    }

    /// Ends a freeze (SIGCONT).
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.inner.slot.signal(Signal::SIGCONT);
    }
}

impl Deref for RedisServer {
    type Target = RedisNode;

    fn deref(&self) -> &RedisNode {
        &self.inner.node
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.inner.log.print_if_panicking();
    }
}

/// The Redis server that all tests of a run share. When the test fails, what Redis logged since then is
/// printed.
#[derive(Debug)]
pub struct SharedRedis {
    node: RedisNode,
    log: LogTail,
}

impl Deref for SharedRedis {
    type Target = RedisNode;

    fn deref(&self) -> &RedisNode {
        &self.node
    }
}

impl Drop for SharedRedis {
    fn drop(&mut self) {
        self.log.print_if_panicking();
    }
}
