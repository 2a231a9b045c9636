//! The measured systems by name.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::rpc::{self, lapin::Style, redis_naive::Caller};

/// The broker that a system needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Broker {
    None,
    Redis,
    RabbitMq,
}

/// A system that can be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System {
    /// Its name, without `.ct`.
    pub(crate) name: &'static str,
    pub(crate) broker: Broker,
    /// Client and server in one process.
    pub(crate) in_process: bool,
    pub(crate) about: &'static str,
}

const fn system(name: &'static str, broker: Broker, about: &'static str) -> System {
    System {
        name,
        broker,
        in_process: matches!(broker, Broker::None),
        about,
    }
}

/// All of them.
pub(crate) const SYSTEMS: &[System] = &[
    system(
        "commlib.memory",
        Broker::None,
        "commlib, memory://, default settings",
    ),
    system(
        "floor.json.spawn",
        Broker::None,
        "tokio mpsc and oneshot, JSON both ways, a task per request",
    ),
    system(
        "commlib.redis",
        Broker::Redis,
        "commlib, redis://, default settings",
    ),
    system(
        "commlib.redis.perlist",
        Broker::Redis,
        "commlib's server, callers in the commlib-py dialect with a list per call",
    ),
    system(
        "redis.seed",
        Broker::Redis,
        "redis crate, naive: push, pop a list per call, delete",
    ),
    system(
        "redis.interop",
        Broker::Redis,
        "redis crate, the best server, callers with a list per call",
    ),
    system(
        "redis.opt",
        Broker::Redis,
        "redis crate, the best scheme: one reply list, draining pops, one write",
    ),
    system(
        "commlib.amqp",
        Broker::RabbitMq,
        "commlib, amqp://, default settings: acknowledged",
    ),
    system(
        "lapin.noack",
        Broker::RabbitMq,
        "lapin, inline consumer loop, no acks",
    ),
    system(
        "lapin.noack.spawn",
        Broker::RabbitMq,
        "lapin, a task per request, no acks",
    ),
    system(
        "lapin.ack64",
        Broker::RabbitMq,
        "lapin, inline consumer loop, prefetch 64, ack per message",
    ),
    system(
        "lapin.ack64.spawn",
        Broker::RabbitMq,
        "lapin, a task per request, prefetch 64, ack per message",
    ),
];

/// A name without the suffix for the current-thread runtime, and whether it had it.
pub(crate) fn split_flavour(name: &str) -> (&str, bool) {
    name.strip_suffix(".ct")
        .map_or((name, false), |name| (name, true))
}

/// The system of a name, which may end in `.ct`.
pub(crate) fn find(name: &str) -> anyhow::Result<System> {
    let (base, _) = split_flavour(name);
    match SYSTEMS.iter().find(|system| system.name == base) {
        Some(system) => Ok(*system),
        None => bail!("there is no system {name}; `commlib-bench systems` lists them"),
    }
}

/// Is the server, until the input ends.
pub(crate) async fn serve(name: &str, url: &str) -> anyhow::Result<()> {
    let style = |ack, spawn| Style { ack, spawn };
    match name {
        "commlib.redis" | "commlib.redis.perlist" | "commlib.amqp" => rpc::ours::serve(url).await,
        "redis.seed" => rpc::redis_naive::serve(url).await,
        "redis.opt" | "redis.interop" => rpc::redis_batched::serve(url).await,
        "lapin.noack" => rpc::lapin::serve(url, style(false, false)).await,
        "lapin.noack.spawn" => rpc::lapin::serve(url, style(false, true)).await,
        "lapin.ack64" => rpc::lapin::serve(url, style(true, false)).await,
        "lapin.ack64.spawn" => rpc::lapin::serve(url, style(true, true)).await,
        _ => bail!("{name} has no server"),
    }
}

/// Is the client, until the input ends.
pub(crate) async fn drive(name: &str, url: &str) -> anyhow::Result<()> {
    match name {
        "commlib.memory" => rpc::ours::drive("memory://bench").await,
        "commlib.redis" | "commlib.amqp" => rpc::ours::drive(url).await,
        "commlib.redis.perlist" => rpc::redis_naive::drive(url, Caller::CommlibPy).await,
        "redis.seed" => rpc::redis_naive::drive(url, Caller::Naive).await,
        "redis.interop" => rpc::redis_naive::drive(url, Caller::OneWrite).await,
        "redis.opt" => rpc::redis_batched::drive(url).await,
        "lapin.noack" | "lapin.noack.spawn" | "lapin.ack64" | "lapin.ack64.spawn" => {
            rpc::lapin::drive(url).await
        }
        "floor.json.spawn" => rpc::floor::drive().await,
        _ => bail!("{name} has no client"),
    }
}
