//! Real RabbitMQ servers.

use std::ops::Deref;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocking::blocking;
use crate::locate;
use crate::log::LogTail;
use crate::net;
use crate::process::Process;
use crate::reaper::{self, Reaper};
use crate::slot::Slot;
use crate::{Signal, TempDir, shared};

/// A boot takes about 6 s on an idle core.
const START_LIMIT: Duration = Duration::from_secs(300);
const CTL_LIMIT: Duration = Duration::from_secs(180);
const PACKAGE: &str = "rabbitmq-server";

/// Where a RabbitMQ server is and how to look at it.
#[derive(Debug, Clone)]
pub struct RabbitNode {
    port: u16,
    /// For other Erlang nodes: `rabbitmqctl` is one.
    dist_port: u16,
    /// Our own port mapper, so that no two brokers of a machine meet.
    epmd_port: u16,
    folder: PathBuf,
}

impl RabbitNode {
    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The URL for a client that goes through another port of 127.0.0.1, such as that of a fault proxy.
    pub fn url_at(&self, port: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// The AMQP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs `rabbitmqctl` and returns what it printed. Takes about a second.
    ///
    /// # Panics
    /// When it fails or takes more than 60 s.
    pub async fn ctl(&self, args: &[&str]) -> String {
        match self.try_ctl(args).await {
            Ok(output) => output,
            Err(error) => panic!("rabbitmqctl {args:?}: {error}"),
        }
    }

    /// Runs `rabbitmqctl` and returns what it printed, as text on success and on failure.
    ///
    /// # Errors
    /// When it fails.
    ///
    /// # Panics
    /// When it takes more than 60 s.
    pub async fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        let node = self.clone();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        blocking(move || node.run_ctl(&args)).await
    }

    /// The rows of a `rabbitmqctl list_…` command such as `["list_queues", "name", "messages"]`, split at tabs.
    ///
    /// # Panics
    /// As [`ctl`](Self::ctl).
    pub async fn list(&self, args: &[&str]) -> Vec<Vec<String>> {
        let quiet = [&["--silent", "--no-table-headers"], args].concat();
        let output = self.ctl(&quiet).await;
        output
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect()
    }

    fn run_ctl(&self, args: &[String]) -> Result<String, String> {
        let output = self.folder.join(crate::unique("ctl"));
        let mut command = Command::new(self.program("rabbitmqctl"));
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        self.environment(&mut command);
        let process = Process::start_logged(&command, &output, reaper::own());
        let status = process.wait(CTL_LIMIT);
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        let _ = std::fs::remove_file(&output);
        match status {
            Some(status) if status.success() => Ok(text),
            Some(status) => Err(format!("{status}: {text}")),
            None => panic!("rabbitmqctl {args:?} did not end within {CTL_LIMIT:?}: {text}"),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("rabbit.log")
    }

    fn program(&self, name: &str) -> PathBuf {
        // Debian's wrapper on PATH wants to be root and changes the user; behind it are the plain scripts.
        let plain = format!("/usr/lib/rabbitmq/bin/{name}");
        locate::program(name, &[&plain], PACKAGE)
    }

    /// Everything that RabbitMQ would else take from the machine.
    fn environment(&self, command: &mut Command) {
        for (key, _) in std::env::vars_os() {
            if key
                .to_str()
                .is_some_and(|key| key.starts_with("RABBITMQ_") || key.starts_with("ERL_"))
            {
                command.env_remove(key);
            }
        }
        let folder = &self.folder;
        command
            .env("HOME", folder)
            .env("LC_ALL", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "commlib@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("env.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("generated"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", folder.join("plugins"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", folder.join("feature_flags"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder)
            .env("RABBITMQ_LOGS", self.log())
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            // One scheduler without busy waiting: a broker should not take a core from the code under test.
            // Nothing listens beyond 127.0.0.1, and no port mapper is started that would outlive us.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +SDio 1 +sbwt none -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 +sbwt none -start_epmd false")
            // Makes the start script `exec` the Erlang machine, so that its process id is the one we know.
            .env("detached", "true");
    }

    fn write_files(&self, config: &str) -> std::io::Result<()> {
        let write = |name: &str, text: &str| std::fs::write(self.folder.join(name), text);
        write("env.conf", "")?;
        write("enabled_plugins", "[].\n")?;
        // The disk alarm is for a test that sets it, not for a machine with a full disk.
        write(
            "rabbitmq.conf",
            &format!("disk_free_limit.absolute = 1MB\nlog.file.level = info\n{config}\n"),
        )?;
        let cookie = self.folder.join(".erlang.cookie");
        if !cookie.exists() {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&cookie)?;
            std::io::Write::write_all(&mut file, crate::unique("cookie").as_bytes())?;
        }
        std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o400))
    }

    /// Sends the protocol header; the broker answers with `connection.start`.
    fn handshake(&self) -> Result<(), String> {
        // A method frame on channel 0, its length, class 10, method 10.
        net::ask(self.port, b"AMQP\x00\x00\x09\x01", |answer| {
            answer.len() >= 11 && answer.starts_with(&[1, 0, 0]) && answer[7..11] == [0, 10, 0, 10]
        })
        .map(drop)
    }

    fn boot_epmd<'a>(&self, reaper: &'a Reaper) -> Result<Process<'a>, String> {
        let mut command = Command::new(locate::program("epmd", &[], PACKAGE));
        command.args(["-port", &self.epmd_port.to_string(), "-address", "127.0.0.1"]);
        command.current_dir(&self.folder);
        let process = Process::start_logged(&command, &self.log(), reaper);
        self.until_ready("epmd", &process, || {
            net::ask(self.epmd_port, b"", |_| true).map(drop)
        })?;
        Ok(process)
    }

    /// Starts the server process on its ports and waits until it takes AMQP connections.
    fn boot<'a>(&self, reaper: &'a Reaper) -> Result<Process<'a>, String> {
        let mut command = Command::new(self.program("rabbitmq-server"));
        command.current_dir(&self.folder);
        self.environment(&mut command);
        let process = Process::start_logged(&command, &self.log(), reaper);
        self.until_ready("rabbitmq-server", &process, || self.handshake())?;
        // The listener is there a moment before the rest of the server, such as what rabbitmqctl asks.
        self.run_ctl(&["await_startup".to_owned()])?;
        Ok(process)
    }

    fn until_ready(
        &self,
        name: &'static str,
        process: &Process<'_>,
        ready: impl Fn() -> Result<(), String>,
    ) -> Result<(), String> {
        let end = Instant::now() + START_LIMIT;
        let tail = || LogTail::from_now(name, &self.log()).whole().text();
        loop {
            let Err(error) = ready() else { return Ok(()) };
            if let Some(status) = process.status() {
                return Err(format!("{name} ended with {status}\n{}", tail()));
            }
            if Instant::now() > end {
                return Err(format!(
                    "{name} not ready after {START_LIMIT:?}: {error}\n{}",
                    tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Boots on free ports, and on other ones if somebody takes one meanwhile.
    fn start<'a>(folder: &Path, config: &str, reaper: &'a Reaper) -> (Self, Process<'a>, Process<'a>) {
        let mut tries = 0;
        loop {
            let [port, dist_port, epmd_port] = net::free_ports();
            let node = Self {
                port,
                dist_port,
                epmd_port,
                folder: folder.to_owned(),
            };
            let written = node.write_files(config);
            written.unwrap_or_else(|error| panic!("could not write to {}: {error}", folder.display()));
            tries += 1;
            let booted = node
                .boot_epmd(reaper)
                .and_then(|epmd| Ok((epmd, node.boot(reaper)?)));
            match booted {
                Ok((epmd, process)) => return (node, epmd, process),
                Err(error) if tries < 3 && (error.contains("eaddrinuse") || error.contains("in use")) => {}
                Err(error) => panic!("could not start RabbitMQ: {error}"),
            }
        }
    }
}

/// A RabbitMQ server of one test, which may stop, kill and freeze it. It ends when this value is dropped.
///
/// Durable queues with persistent messages survive [`kill`](Self::kill) and [`restart`](Self::restart).
#[derive(Debug)]
pub struct RabbitMq {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Fields are dropped in this order: the processes go before their folder.
    slot: Slot,
    _epmd: Process<'static>,
    node: RabbitNode,
    log: LogTail,
    _folder: TempDir,
}

impl RabbitMq {
    /// Starts a server on free ports and waits until it takes connections: 6 s or more.
    ///
    /// # Panics
    /// When it does not start; the message holds the end of its log.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Like [`start`](Self::start) with more lines for `rabbitmq.conf`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(config: &str) -> Self {
        let config = config.to_owned();
        blocking(move || {
            let folder = TempDir::new("rabbitmq");
            let (node, epmd, process) = RabbitNode::start(folder.path(), &config, reaper::own());
            let log = LogTail::from_now("rabbitmq-server", &node.log());
            let slot = Slot::new("rabbitmq-server", process);
            Self {
                inner: Arc::new(Inner {
                    slot,
                    _epmd: epmd,
                    node,
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
    pub async fn shared() -> SharedRabbitMq {
        blocking(|| {
            shared::lease(
                "rabbitmq",
                |folder, reaper| {
                    let (node, epmd, process) = RabbitNode::start(folder, "", reaper);
                    epmd.release();
                    process.release();
                    format!("{} {} {}", node.port, node.dist_port, node.epmd_port)
                },
                |folder, ports| {
                    let known: Vec<u16> = ports.split(' ').filter_map(|port| port.parse().ok()).collect();
                    let [port, dist_port, epmd_port] = known[..] else {
                        panic!("not three ports: {ports:?}")
                    };
                    let node = RabbitNode {
                        port,
                        dist_port,
                        epmd_port,
                        folder: folder.to_owned(),
                    };
                    let log = LogTail::from_now("the shared rabbitmq-server", &node.log());
                    if let Err(error) = node.handshake() {
                        panic!(
                            "the shared RabbitMQ no longer answers: {error}\n{}",
                            log.whole().text()
                        );
                    }
                    SharedRabbitMq { node, log }
                },
            )
        })
        .await
    }

    /// The process id of its Erlang machine, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.slot.pid()
    }

    /// Ends it in order (SIGTERM), which takes about a second. No effect when it does not run.
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
            let process = inner.node.boot(reaper::own());
            inner
                .slot
                .replace(process.unwrap_or_else(|error| panic!("could not restart RabbitMQ: {error}")));
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

impl Deref for RabbitMq {
    type Target = RabbitNode;

    fn deref(&self) -> &RabbitNode {
        &self.inner.node
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.inner.log.print_if_panicking();
    }
}

/// The RabbitMQ server that all tests of a run share. When the test fails, what RabbitMQ logged since then
/// is printed.
///
/// Alarms, permissions and other settings of the whole broker are not for a shared one: use
/// [`RabbitMq::start`] for them.
#[derive(Debug)]
pub struct SharedRabbitMq {
    node: RabbitNode,
    log: LogTail,
}

impl Deref for SharedRabbitMq {
    type Target = RabbitNode;

    fn deref(&self) -> &RabbitNode {
        &self.node
    }
}

impl Drop for SharedRabbitMq {
    fn drop(&mut self) {
        self.log.print_if_panicking();
    }
}
