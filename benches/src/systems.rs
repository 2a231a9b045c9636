//! The measured systems by name.

use anyhow::bail;
use commlib_bench_protocol::Kind;
use serde::{Deserialize, Serialize};

use crate::rpc::{self, lapin::Style, redis_naive::Caller};
use crate::topics as ps;

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
    pub(crate) kind: Kind,
    /// How many messages it publishes at a time when it goes flat out.
    pub(crate) window: usize,
    /// Client and server in one process.
    pub(crate) in_process: bool,
    pub(crate) about: &'static str,
}

const fn system(name: &'static str, broker: Broker, about: &'static str) -> System {
    System {
        name,
        broker,
        kind: Kind::Rpc,
        window: 0,
        in_process: matches!(broker, Broker::None),
        about,
    }
}

const fn topics(name: &'static str, broker: Broker, window: usize, about: &'static str) -> System {
    System {
        kind: Kind::Pub,
        window,
        ..system(name, broker, about)
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
    topics(
        "ps.commlib.memory",
        Broker::None,
        64,
        "commlib, memory://, default settings",
    ),
    topics("ps.floor.mpsc", Broker::None, 64, "tokio mpsc, JSON both ways"),
    topics(
        "ps.commlib.redis",
        Broker::Redis,
        64,
        "commlib, redis://, default settings",
    ),
    topics(
        "ps.redis.await",
        Broker::Redis,
        1,
        "redis crate, PUBLISH awaited one by one",
    ),
    topics(
        "ps.redis.pipe64",
        Broker::Redis,
        64,
        "redis crate, PUBLISH, 64 in flight",
    ),
    topics(
        "ps.commlib.amqp",
        Broker::RabbitMq,
        64,
        "commlib, amqp://, default settings: confirmed",
    ),
    topics(
        "ps.lapin",
        Broker::RabbitMq,
        1,
        "lapin, awaited one by one, unconfirmed, no acks",
    ),
    topics(
        "ps.lapin.pipe64",
        Broker::RabbitMq,
        64,
        "lapin, 64 in flight, unconfirmed, no acks",
    ),
    topics(
        "ps.lapin.ack",
        Broker::RabbitMq,
        1,
        "lapin, awaited one by one, unconfirmed, acked, prefetch 256",
    ),
    topics(
        "ps.lapin.confirm",
        Broker::RabbitMq,
        1,
        "lapin, each confirm awaited, no acks",
    ),
    topics(
        "ps.lapin.confirm.pipe64",
        Broker::RabbitMq,
        64,
        "lapin, 64 in flight, confirmed, no acks",
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
        "ps.commlib.redis" | "ps.commlib.amqp" => ps::ours::subscribe(url).await,
        "ps.redis.await" | "ps.redis.pipe64" => ps::redis::subscribe(url).await,
        "ps.lapin.ack" => ps::lapin::subscribe(url, true).await,
        "ps.lapin" | "ps.lapin.pipe64" | "ps.lapin.confirm" | "ps.lapin.confirm.pipe64" => {
            ps::lapin::subscribe(url, false).await
        }
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
        "ps.commlib.memory" => ps::ours::publish("memory://bench").await,
        "ps.floor.mpsc" => ps::floor::publish().await,
        "ps.commlib.redis" | "ps.commlib.amqp" => ps::ours::publish(url).await,
        "ps.redis.await" | "ps.redis.pipe64" => ps::redis::publish(url).await,
        "ps.lapin" | "ps.lapin.pipe64" | "ps.lapin.ack" => ps::lapin::publish(url, false).await,
        "ps.lapin.confirm" | "ps.lapin.confirm.pipe64" => ps::lapin::publish(url, true).await,
        _ => bail!("{name} has no client"),
    }
}
