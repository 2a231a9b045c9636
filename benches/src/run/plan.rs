//! What the whole bench runs.

/// Systems that are compared with each other, and in what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) title: &'static str,
    /// The system that the × columns compare with.
    pub(crate) against: &'static str,
    pub(crate) systems: &'static [&'static str],
    pub(crate) phases: &'static [&'static str],
    /// In how many rounds it runs at most.
    pub(crate) rounds: usize,
    /// Whether it is in the quick form.
    pub(crate) quick: bool,
}

const RPC: &[&str] = &["rpc1", "rpc16", "rpc64", "rpc256", "rpc1.16k", "rpc64.16k"];
const TOPICS: &[&str] = &["pub", "pub.16k", "pub200", "pub200.16k"];
const ALWAYS: usize = usize::MAX;

/// The tables of the page.
pub(crate) const TABLES: &[Group] = &[
    Group {
        title: "RPC in process",
        against: "tarpc.inproc",
        systems: &[
            "commlib.memory",
            "commlib.memory.msgpack",
            "tarpc.inproc",
            "floor.json.spawn",
            "commlib.memory.ct",
            "tarpc.inproc.ct",
            "floor.json.spawn.ct",
        ],
        phases: RPC,
        rounds: ALWAYS,
        quick: true,
    },
    Group {
        title: "RPC over Redis, and what a user might pick instead",
        against: "redis.opt",
        systems: &[
            "commlib.redis",
            "commlib.redis.msgpack",
            "redis.seed",
            "redis.opt",
            "commlib.redis.perlist",
            "redis.interop",
            "commlib.redis.ct",
            "redis.opt.ct",
            "nats",
            "tarpc.tcp",
        ],
        phases: RPC,
        rounds: ALWAYS,
        quick: true,
    },
    Group {
        title: "RPC over RabbitMQ",
        against: "lapin.ack64",
        systems: &[
            "commlib.amqp",
            "commlib.amqp.msgpack",
            "lapin.ack64",
            "lapin.ack64.spawn",
            "commlib.amqp.noack",
            "lapin.noack",
            "lapin.noack.spawn",
            "commlib.amqp.ct",
            "kanin",
            "ruststream.w64",
        ],
        phases: RPC,
        rounds: ALWAYS,
        quick: true,
    },
    Group {
        title: "RPC of Python frameworks",
        against: "commlib-py.redis",
        systems: &[
            "commlib-py.redis",
            "faststream.redis",
            "commlib-py.amqp",
            "faststream.rabbit",
        ],
        phases: &["rpc1", "rpc64"],
        rounds: ALWAYS,
        quick: false,
    },
    Group {
        title: "Topics in process",
        against: "ps.floor.mpsc",
        systems: &[
            "ps.commlib.memory",
            "ps.floor.mpsc",
            "ps.commlib.memory.ct",
            "ps.floor.mpsc.ct",
        ],
        phases: TOPICS,
        rounds: ALWAYS,
        quick: true,
    },
    Group {
        title: "Topics over Redis",
        against: "ps.redis.pipe64",
        systems: &[
            "ps.commlib.redis",
            "ps.redis.await",
            "ps.redis.pipe64",
            "ps.commlib.redis.durable",
            "ps.ruststream.stream.pipe64",
        ],
        phases: TOPICS,
        rounds: ALWAYS,
        quick: true,
    },
    Group {
        title: "Topics over RabbitMQ",
        against: "ps.lapin",
        systems: &[
            "ps.commlib.amqp",
            "ps.commlib.amqp.unconfirmed",
            "ps.lapin",
            "ps.lapin.pipe64",
            "ps.lapin.ack",
            "ps.lapin.confirm.pipe64",
            "ps.commlib.amqp.durable",
            "ps.commlib.amqp.transient",
            "ps.commlib.amqp.acked",
            "ps.lapin.durable.pipe64",
            "ps.ruststream.rabbit.pipe64",
        ],
        phases: TOPICS,
        rounds: ALWAYS,
        quick: true,
    },
];

/// How cost grows.
pub(crate) const GROWTH: &[Group] = &[
    Group {
        title: "calls in flight",
        against: "commlib.redis@c1",
        // With a number, so that these samples are not mixed with those of the tables.
        systems: &[
            "commlib.redis@c1",
            "redis.opt@c1",
            "commlib.amqp@c1",
            "lapin.ack64.spawn@c1",
        ],
        phases: &[
            "rpc1", "rpc2", "rpc4", "rpc8", "rpc16", "rpc32", "rpc64", "rpc128", "rpc256",
        ],
        rounds: 1,
        quick: false,
    },
    Group {
        title: "client connections",
        against: "commlib.redis@c1",
        systems: &[
            "commlib.redis@c1",
            "commlib.redis@c10",
            "commlib.redis@c100",
            "commlib.amqp@c1",
            "commlib.amqp@c10",
            "commlib.amqp@c100",
        ],
        phases: &["rpc256"],
        rounds: 1,
        quick: false,
    },
    Group {
        title: "servers on one address",
        against: "commlib.redis@s1",
        systems: &[
            "commlib.redis@s1",
            "commlib.redis@s10",
            "commlib.redis@s100",
            "commlib.amqp@s1",
            "commlib.amqp@s10",
            "commlib.amqp@s100",
        ],
        phases: &["rpc256"],
        rounds: 1,
        quick: false,
    },
    Group {
        title: "subscribers of one topic",
        against: "ps.commlib.redis@f1",
        systems: &[
            "ps.commlib.redis@f1",
            "ps.commlib.redis@f10",
            "ps.commlib.redis@f100",
            "ps.commlib.amqp@f1",
            "ps.commlib.amqp@f10",
            "ps.commlib.amqp@f100",
        ],
        phases: &["pub", "pub200"],
        rounds: 1,
        quick: false,
    },
    Group {
        title: "subscriptions of one node",
        against: "ps.commlib.memory@n1",
        systems: &[
            "ps.commlib.memory@n1",
            "ps.commlib.memory@n100",
            "ps.commlib.memory@n10000",
            "ps.commlib.redis@n1",
            "ps.commlib.redis@n100",
            "ps.commlib.redis@n10000",
            "ps.commlib.amqp@n1",
            "ps.commlib.amqp@n100",
        ],
        phases: &["pub", "pub200"],
        rounds: 1,
        quick: false,
    },
];
