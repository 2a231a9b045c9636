//! Private brokers of a run, with the settings that they come with.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use commlib_tests::{RedisServer, TempDir};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::systems::Broker;

const START: Duration = Duration::from_secs(60);

/// The brokers that were started; they end when this is dropped.
pub(crate) struct Brokers {
    redis: Option<RedisServer>,
    rabbitmq: Option<RabbitMq>,
    nats: Option<Nats>,
}

impl Brokers {
    /// Starts those that are needed.
    pub(crate) async fn start(needed: &[Broker]) -> anyhow::Result<Self> {
        let redis = if needed.contains(&Broker::Redis) {
            Some(RedisServer::start_with(&["--appendonly", "no"]).await)
        } else {
            None
        };
        let rabbitmq = if needed.contains(&Broker::RabbitMq) {
            Some(RabbitMq::start().await?)
        } else {
            None
        };
        let nats = if needed.contains(&Broker::Nats) {
            Some(Nats::start().await?)
        } else {
            None
        };
        Ok(Self {
            redis,
            rabbitmq,
            nats,
        })
    }

    /// The URL of a broker, empty if there is none; a free address for processes that talk directly.
    pub(crate) fn url(&self, broker: Broker) -> anyhow::Result<String> {
        let url = match broker {
            Broker::None => String::new(),
            Broker::Redis => self.redis.as_ref().map(|redis| redis.url()).unwrap_or_default(),
            Broker::RabbitMq => self.rabbitmq.as_ref().map(RabbitMq::url).unwrap_or_default(),
            Broker::Nats => self.nats.as_ref().map(Nats::url).unwrap_or_default(),
            Broker::Direct => format!("127.0.0.1:{}", free_ports()?[0]),
        };
        Ok(url)
    }

    /// The process id of a broker, for its CPU time.
    pub(crate) fn pid(&self, broker: Broker) -> Option<u32> {
        match broker {
            Broker::None | Broker::Direct => None,
            Broker::Nats => self.nats.as_ref()?.server.id(),
            Broker::Redis => self.redis.as_ref()?.pid(),
            Broker::RabbitMq => self.rabbitmq.as_ref()?.server.id(),
        }
    }
}

/// RabbitMQ as it comes: the test kit's takes one scheduler only, so that tests go on beside it, and would be slower.
struct RabbitMq {
    port: u16,
    server: Child,
    // Dropped after the server.
    _port_mapper: Child,
    _folder: TempDir,
}

impl RabbitMq {
    async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new("bench-rabbitmq");
        let [port, distribution, mapper] = free_ports()?;
        let port_mapper = child(
            Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "epmd"])
                .args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]),
        )
        .context("epmd does not start; scripts/bench installs rabbitmq-server")?;
        let server = Self::server(folder.path(), port, distribution, mapper)?;
        let rabbitmq = Self {
            port,
            server,
            _port_mapper: port_mapper,
            _folder: folder,
        };
        let begin = Instant::now();
        while let Err(error) = greeting(port).await {
            if begin.elapsed() > START {
                bail!("RabbitMQ is not ready after {START:?}: {error}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(rabbitmq)
    }

    fn server(folder: &Path, port: u16, distribution: u16, mapper: u16) -> anyhow::Result<Child> {
        std::fs::write(folder.join("env.conf"), "")?;
        std::fs::write(folder.join("enabled_plugins"), "[].\n")?;
        std::fs::write(
            folder.join("rabbitmq.conf"),
            "disk_free_limit.absolute = 1MB\nlog.file.level = warning\n",
        )?;
        let mut command = Command::new("setpriv");
        // Debian's wrapper on PATH changes the user; this is the plain script behind it.
        command.args(["--pdeathsig", "KILL", "/usr/lib/rabbitmq/bin/rabbitmq-server"]);
        for (key, _) in std::env::vars_os() {
            if key
                .to_str()
                .is_some_and(|key| key.starts_with("RABBITMQ_") || key.starts_with("ERL_"))
            {
                command.env_remove(key);
            }
        }
        command
            .current_dir(folder)
            .env("HOME", folder)
            .env("LC_ALL", "C.UTF-8")
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "bench@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("env.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("generated"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", folder.join("plugins"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", folder.join("feature_flags"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder)
            .env("RABBITMQ_LOGS", folder.join("rabbit.log"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            )
            // Makes the start script `exec` the Erlang machine, so that its process id is the one we know.
            .env("detached", "true");
        child(&mut command).context("rabbitmq-server does not start; scripts/bench installs it")
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }
}

/// NATS as it comes.
struct Nats {
    port: u16,
    server: Child,
}

impl Nats {
    async fn start() -> anyhow::Result<Self> {
        let [port, ..] = free_ports()?;
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "nats-server",
            "-a",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        let path = std::env::var("PATH").unwrap_or_default();
        // A user's PATH on Debian leaves out the folders where daemons are.
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let server = child(&mut command).context("nats-server does not start; scripts/bench installs it")?;
        let begin = Instant::now();
        while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            if begin.elapsed() > START {
                bail!("NATS is not ready after {START:?}: {error}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { port, server })
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

fn child(command: &mut Command) -> std::io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

fn free_ports() -> anyhow::Result<[u16; 3]> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [free()?, free()?, free()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Sends the protocol header and waits for the broker's first frame.
async fn greeting(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    let mut frame = [0; 11];
    tokio::time::timeout(Duration::from_secs(2), stream.read_exact(&mut frame)).await??;
    anyhow::ensure!(frame[0] == 1 && frame[7..11] == [0, 10, 0, 10], "no greeting");
    Ok(())
}
