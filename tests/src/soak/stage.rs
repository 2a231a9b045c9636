//! A broker, the fault proxy before it, and servers in processes of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::brokers::{Broker, BrokerKind};
use super::runs::{Kind, RunLogs};
use super::server::Settings;
use crate::{Child, FaultProxy, Program, Signal, TempDir};

/// How long a server may take to serve: the broker may be on its way.
const START_LIMIT: Duration = Duration::from_secs(180);

/// What a run needs on the other side of its clients.
#[derive(Debug)]
pub struct Stage {
    /// The program `commlib-soak`.
    program: PathBuf,
    /// The servers that run, the oldest first.
    servers: Mutex<Vec<Child>>,
    /// The proxy, which goes before the broker.
    pub proxy: FaultProxy,
    /// The broker.
    pub broker: Broker,
    /// What the servers report.
    pub runs: RunLogs,
    started: AtomicU64,
    _folder: TempDir,
}

impl Stage {
    /// Starts a broker and its proxy.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start(kind: BrokerKind, program: PathBuf) -> Self {
        let broker = Broker::start(kind).await;
        let folder = TempDir::new("soak");
        Self {
            program,
            servers: Mutex::default(),
            proxy: FaultProxy::start(broker.port()).await,
            broker,
            runs: RunLogs::in_folder(folder.path()),
            started: AtomicU64::new(0),
            _folder: folder,
        }
    }

    /// Where clients and servers connect to.
    pub fn url(&self) -> String {
        self.broker.url_at(self.proxy.port())
    }

    /// Starts a server, and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_server(&self, settings: &Settings) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let millis = settings.drain.as_millis().to_string();
        let mut program = Program::new(&self.program)
            .args(["serve", "--url", &settings.url, "--drain-ms", &millis, "--runs"])
            .arg(self.runs.file(number))
            .args(["--concurrency", &settings.concurrency.to_string()])
            .name(&format!("server {number}"));
        if settings.durable {
            program = program.arg("--durable");
        }
        let mut server = program.start();
        server.wait_line("ready", START_LIMIT).await;
        self.servers.lock().push(server);
    }

    /// Takes one of the servers away; whoever has it ends it.
    ///
    /// # Panics
    /// When there is none.
    pub fn take_server(&self, index: usize) -> Child {
        let mut servers = self.servers.lock();
        let index = index % servers.len().max(1);
        servers.remove(index)
    }

    /// The process ids of the servers, the oldest first.
    pub fn server_pids(&self) -> Vec<u32> {
        self.servers.lock().iter().map(Child::pid).collect()
    }

    /// Ends all servers in order. What could not be ended so is returned in words.
    pub async fn stop_servers(&self, limit: Duration) -> Vec<String> {
        let servers = std::mem::take(&mut *self.servers.lock());
        for server in &servers {
            if server.status().is_none() {
                server.signal(Signal::SIGTERM);
            }
        }
        let mut failed = Vec::new();
        for server in servers {
            let status = server.wait(limit).await;
            if !status.success() {
                failed.push(format!(
                    "a server ended with {status}: {}",
                    server.stderr().join(" / ")
                ));
            }
        }
        failed
    }

    /// The numbers that handlers ran for.
    pub fn ran(&self, kind: Kind) -> Vec<u64> {
        self.runs.read(kind)
    }
}
