//! The measured systems by name.

use anyhow::bail;
use commlib_bench_protocol::Kind;
use serde::{Deserialize, Serialize};

use crate::rpc::{self, lapin::Style, redis_naive::Caller};
use crate::topics::{self as ps, durable::Kept, lapin::Acks};

/// The broker that a system needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Broker {
    None,
    Redis,
    RabbitMq,
    Nats,
    /// No broker: the two processes talk directly, at a free port.
    Direct,
}

/// The program that a system's processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// This one.
    Own,
    /// That of `benches/peers`.
    Peers,
    /// That of `benches/python`.
    Python,
}

/// A system that can be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System {
    /// Its name, without `.ct`.
    pub(crate) name: &'static str,
    pub(crate) broker: Broker,
    pub(crate) kind: Kind,
    pub(crate) program: Program,
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
        program: Program::Own,
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

const fn peer(program: Program, system: System) -> System {
    System { program, ..system }
}

/// All of them.
pub(crate) const SYSTEMS: &[System] = &[
    system(
        "commlib.memory",
        Broker::None,
        "commlib, memory://, default settings",
    ),
    system(
        "commlib.memory.msgpack",
        Broker::None,
        "commlib, memory://, bodies as MessagePack",
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
        "commlib.redis.msgpack",
        Broker::Redis,
        "commlib, redis://, bodies as MessagePack",
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
        "commlib.amqp.msgpack",
        Broker::RabbitMq,
        "commlib, amqp://, acknowledged, bodies as MessagePack",
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
    topics(
        "ps.lapin.durable.pipe64",
        Broker::RabbitMq,
        64,
        "lapin, durable queue, persistent, 64 in flight, confirmed, acked, prefetch 64",
    ),
    topics(
        "ps.lapin.durable.rows",
        Broker::RabbitMq,
        64,
        "lapin, the same with an ack for up to 16 messages",
    ),
    peer(
        Program::Peers,
        system(
            "tarpc.inproc",
            Broker::None,
            "tarpc over its channel transport, which does not encode",
        ),
    ),
    peer(
        Program::Peers,
        system("tarpc.tcp", Broker::Direct, "tarpc over TCP, JSON"),
    ),
    peer(
        Program::Peers,
        system(
            "nats",
            Broker::Nats,
            "async-nats request/reply, inline server loop, JSON",
        ),
    ),
    peer(
        Program::Peers,
        system(
            "kanin",
            Broker::RabbitMq,
            "kanin's server (Protobuf, default prefetch 64), lapin's client",
        ),
    ),
    peer(
        Program::Peers,
        system(
            "ruststream.w64",
            Broker::RabbitMq,
            "RustStream request/reply, prefetch 64, workers(64)",
        ),
    ),
    peer(
        Program::Peers,
        topics(
            "ps.ruststream.rabbit.pipe64",
            Broker::RabbitMq,
            64,
            "RustStream, 64 in flight, prefetch 64, workers(64), acked",
        ),
    ),
    peer(
        Program::Peers,
        topics(
            "ps.ruststream.stream.pipe64",
            Broker::Redis,
            64,
            "RustStream Redis Streams, 64 in flight, batch(64), pipeline(), acked",
        ),
    ),
    peer(
        Program::Python,
        system(
            "commlib-py.redis",
            Broker::Redis,
            "commlib-py, a thread and client per outstanding call",
        ),
    ),
    peer(
        Program::Python,
        system(
            "commlib-py.amqp",
            Broker::RabbitMq,
            "commlib-py, a thread and client per outstanding call",
        ),
    ),
    peer(
        Program::Python,
        system(
            "faststream.redis",
            Broker::Redis,
            "FastStream, uvloop, 1,000 connections allowed",
        ),
    ),
    peer(
        Program::Python,
        system("faststream.rabbit", Broker::RabbitMq, "FastStream, uvloop"),
    ),
    topics(
        "ps.commlib.redis.durable",
        Broker::Redis,
        64,
        "commlib, redis://, durable topic, a group of one that runs 64 handlers",
    ),
    topics(
        "ps.commlib.amqp.durable",
        Broker::RabbitMq,
        64,
        "commlib, amqp://, durable topic, a group of one that runs 64 handlers",
    ),
    topics(
        "ps.commlib.amqp.transient",
        Broker::RabbitMq,
        64,
        "commlib, amqp://, durable topic, messages with transient(), a group of one that runs 64 handlers",
    ),
    topics(
        "ps.commlib.amqp.acked",
        Broker::RabbitMq,
        64,
        "commlib, amqp://, durable topic, messages with transient() and unconfirmed(), a group of one that runs 64 handlers",
    ),
    system(
        "commlib.amqp.noack",
        Broker::RabbitMq,
        "commlib, amqp://, the server with auto_ack()",
    ),
    topics(
        "ps.commlib.amqp.unconfirmed",
        Broker::RabbitMq,
        64,
        "commlib, amqp://, messages with unconfirmed()",
    ),
];

/// What a name says beyond the system: `commlib.redis.ct@c10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// `.ct`: a current-thread runtime in both processes.
    pub(crate) single: bool,
    /// `@cN`: N client nodes, each with its own connections.
    pub(crate) clients: usize,
    /// `@sN`: N server nodes of one address.
    pub(crate) servers: usize,
    /// `@fN`: N subscriber nodes that get every message.
    pub(crate) fan_out: usize,
    /// `@nN`: N subscriptions of one node, to a topic each.
    pub(crate) subscriptions: usize,
}

/// Takes a name apart.
pub(crate) fn split(name: &str) -> anyhow::Result<(&str, Variant)> {
    let mut variant = Variant {
        single: false,
        clients: 1,
        servers: 1,
        fan_out: 1,
        subscriptions: 1,
    };
    let (mut base, scale) = name
        .split_once('@')
        .map_or((name, None), |(base, scale)| (base, Some(scale)));
    if let Some(scale) = scale {
        let number = scale.get(1..).and_then(|number| number.parse::<usize>().ok());
        match (scale.chars().next(), number) {
            (Some('c'), Some(number)) => variant.clients = number,
            (Some('s'), Some(number)) => variant.servers = number,
            (Some('f'), Some(number)) => variant.fan_out = number,
            (Some('n'), Some(number)) => variant.subscriptions = number,
            _ => bail!("{name}: after @ comes c, s, f or n and a number"),
        }
    }
    if let Some(stripped) = base.strip_suffix(".ct") {
        (base, variant.single) = (stripped, true);
    }
    Ok((base, variant))
}

/// The system of a name.
pub(crate) fn find(name: &str) -> anyhow::Result<System> {
    let (base, _) = split(name)?;
    match SYSTEMS.iter().find(|system| system.name == base) {
        Some(system) => Ok(*system),
        None => bail!("there is no system {name}; `commlib-bench systems` lists them"),
    }
}

/// Is the server, until the input ends.
pub(crate) async fn serve(name: &str, variant: Variant, url: &str) -> anyhow::Result<()> {
    let style = |ack, spawn| Style { ack, spawn };
    match name {
        "commlib.redis"
        | "commlib.redis.msgpack"
        | "commlib.redis.perlist"
        | "commlib.amqp"
        | "commlib.amqp.msgpack"
        | "commlib.amqp.noack" => rpc::ours::serve(url, variant.servers, name.ends_with(".noack")).await,
        "redis.seed" => rpc::redis_naive::serve(url).await,
        "redis.opt" | "redis.interop" => rpc::redis_batched::serve(url).await,
        "lapin.noack" => rpc::lapin::serve(url, style(false, false)).await,
        "lapin.noack.spawn" => rpc::lapin::serve(url, style(false, true)).await,
        "lapin.ack64" => rpc::lapin::serve(url, style(true, false)).await,
        "lapin.ack64.spawn" => rpc::lapin::serve(url, style(true, true)).await,
        "ps.commlib.redis" | "ps.commlib.amqp" | "ps.commlib.amqp.unconfirmed" => {
            ps::ours::subscribe(url, variant).await
        }
        "ps.commlib.redis.durable"
        | "ps.commlib.amqp.durable"
        | "ps.commlib.amqp.transient"
        | "ps.commlib.amqp.acked" => ps::durable::subscribe(url, 64).await,
        "ps.redis.await" | "ps.redis.pipe64" => ps::redis::subscribe(url).await,
        "ps.lapin.ack" => ps::lapin::subscribe(url, Acks::Each(256), false).await,
        "ps.lapin" | "ps.lapin.pipe64" | "ps.lapin.confirm" | "ps.lapin.confirm.pipe64" => {
            ps::lapin::subscribe(url, Acks::None, false).await
        }
        "ps.lapin.durable.pipe64" => ps::lapin::subscribe(url, Acks::Each(64), true).await,
        "ps.lapin.durable.rows" => ps::lapin::subscribe(url, Acks::Rows(64), true).await,
        _ => bail!("{name} has no server"),
    }
}

/// Is the client, until the input ends.
pub(crate) async fn drive(name: &str, variant: Variant, url: &str) -> anyhow::Result<()> {
    match name {
        "commlib.memory" => rpc::ours::drive("memory://bench", variant.clients).await,
        "commlib.memory.msgpack" => rpc::ours::drive("memory://bench?codec=msgpack", variant.clients).await,
        "commlib.redis" | "commlib.amqp" | "commlib.amqp.noack" => {
            rpc::ours::drive(url, variant.clients).await
        }
        "commlib.redis.msgpack" | "commlib.amqp.msgpack" => {
            rpc::ours::drive(&format!("{url}?codec=msgpack"), variant.clients).await
        }
        "commlib.redis.perlist" => rpc::redis_naive::drive(url, Caller::CommlibPy).await,
        "redis.seed" => rpc::redis_naive::drive(url, Caller::Naive).await,
        "redis.interop" => rpc::redis_naive::drive(url, Caller::OneWrite).await,
        "redis.opt" => rpc::redis_batched::drive(url).await,
        "lapin.noack" | "lapin.noack.spawn" | "lapin.ack64" | "lapin.ack64.spawn" => {
            rpc::lapin::drive(url).await
        }
        "floor.json.spawn" => rpc::floor::drive().await,
        "ps.commlib.memory" => ps::ours::publish("memory://bench", variant, false).await,
        "ps.commlib.amqp.unconfirmed" => ps::ours::publish(url, variant, true).await,
        "ps.floor.mpsc" => ps::floor::publish().await,
        "ps.commlib.redis" | "ps.commlib.amqp" => ps::ours::publish(url, variant, false).await,
        "ps.commlib.redis.durable" | "ps.commlib.amqp.durable" => {
            ps::durable::publish(url, Kept::Default).await
        }
        "ps.commlib.amqp.transient" => ps::durable::publish(url, Kept::Transient).await,
        "ps.commlib.amqp.acked" => ps::durable::publish(url, Kept::Unconfirmed).await,
        "ps.redis.await" | "ps.redis.pipe64" => ps::redis::publish(url).await,
        "ps.lapin" | "ps.lapin.pipe64" | "ps.lapin.ack" => ps::lapin::publish(url, false, false).await,
        "ps.lapin.confirm" | "ps.lapin.confirm.pipe64" => ps::lapin::publish(url, true, false).await,
        "ps.lapin.durable.pipe64" | "ps.lapin.durable.rows" => ps::lapin::publish(url, true, true).await,
        _ => bail!("{name} has no client"),
    }
}
