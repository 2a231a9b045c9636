//! The two kinds of brokers behind one interface, for what is done to both.

use std::fmt;
use std::str::FromStr;

use crate::{RabbitMq, RedisServer};

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// Redis.
    Redis,
    /// RabbitMQ.
    Amqp,
}

impl BrokerKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Redis, Self::Amqp];
}

impl FromStr for BrokerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "redis" => Ok(Self::Redis),
            "amqp" => Ok(Self::Amqp),
            _ => Err(format!("{text:?} is none of redis, amqp")),
        }
    }
}

impl fmt::Display for BrokerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis",
            Self::Amqp => "amqp",
        })
    }
}

/// A broker of one run.
#[derive(Debug)]
pub enum Broker {
    /// Redis.
    Redis(RedisServer),
    /// RabbitMQ.
    Amqp(RabbitMq),
}

impl Broker {
    /// Starts one. Both keep what they accepted when they are killed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(kind: BrokerKind) -> Self {
        match kind {
            BrokerKind::Redis => Self::Redis(RedisServer::start().await),
            BrokerKind::Amqp => Self::Amqp(RabbitMq::start().await),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Redis(broker) => broker.port(),
            Self::Amqp(broker) => broker.port(),
        }
    }

    /// The URL of it behind another port.
    pub fn url_at(&self, port: u16) -> String {
        match self {
            Self::Redis(_) => format!("redis://127.0.0.1:{port}"),
            Self::Amqp(broker) => broker.url_at(port),
        }
    }

    /// Its own URL.
    pub fn url(&self) -> String {
        self.url_at(self.port())
    }

    /// Ends it at once (SIGKILL).
    pub async fn kill(&self) {
        match self {
            Self::Redis(broker) => broker.kill().await,
            Self::Amqp(broker) => broker.kill().await,
        }
    }

    /// Starts it again with its data, and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&self) {
        match self {
            Self::Redis(broker) => broker.restart().await,
            Self::Amqp(broker) => broker.restart().await,
        }
    }

    /// SIGSTOP.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        match self {
            Self::Redis(broker) => broker.freeze(),
            Self::Amqp(broker) => broker.freeze(),
        }
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        match self {
            Self::Redis(broker) => broker.thaw(),
            Self::Amqp(broker) => broker.thaw(),
        }
    }
}
