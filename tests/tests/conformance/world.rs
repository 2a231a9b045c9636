//! A transport under test, with nodes of one namespace and a way past the library to the bytes.

use std::sync::Arc;
use std::time::Duration;

use commlib::{Node, NodeBuilder, ServerHandle};
use commlib_tests::{Account, FaultProxy, RabbitMq, RedisServer, SharedRabbitMq, SharedRedis, unique};

use tokio::sync::OnceCell;

use crate::contract::{ProbeServer, Prober, Seen};
use crate::raw::Raw;

/// How long a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(30);

/// The broker of a world, kept until its end.
enum Broker {
    Memory,
    Redis(SharedRedis),
    RabbitMq(SharedRabbitMq),
}

/// One transport and one namespace on it.
pub struct World {
    broker: Broker,
    url: String,
    namespace: String,
    account: Option<Account>,
}

impl World {
    pub async fn memory() -> Self {
        Self::new(Broker::Memory, format!("memory://{}", unique("bus")))
    }

    pub async fn redis() -> Self {
        let broker = RedisServer::shared().await;
        let url = broker.url();
        Self::new(Broker::Redis(broker), url)
    }

    /// As a user who has the rights of `docs/least-privilege.md` in the namespace and no others.
    pub async fn redis_as_least() -> Self {
        let mut world = Self::redis().await;
        let Broker::Redis(broker) = &world.broker else {
            unreachable!("made above")
        };
        // The patterns of the suite, as Redis compares them letter by letter.
        let globs = [
            "*",
            ".a.*",
            ".a*",
            ".sensors*",
            ".sensors.*",
            ".sensors.*.front",
            ".sensors.room.*.*.level",
            ".sensors.room.7.*.level",
            ".sensors.room.*.front.level",
            ".sensors.sonar.*",
            ".sensors.sonar.front*",
            ".orders.moved.*.*",
        ];
        let globs = globs.map(|glob| format!("&{}{glob}", world.namespace));
        let account = broker.account("all", &world.namespace, &globs).await;
        world.url = account.url(&world.url);
        world.account = Some(account);
        world
    }

    /// The same; one user for all tests of a process, as it takes seconds to make one.
    pub async fn amqp_as_least() -> Self {
        static ACCOUNT: OnceCell<Account> = OnceCell::const_new();
        let mut world = Self::amqp().await;
        let Broker::RabbitMq(broker) = &world.broker else {
            unreachable!("made above")
        };
        let account = ACCOUNT.get_or_init(|| broker.account("all", "world-[a-z2-7]+"));
        let account = account.await.clone();
        world.url = account.url(&world.url);
        world.account = Some(account);
        world
    }

    pub async fn amqp() -> Self {
        let broker = RabbitMq::shared().await;
        let url = broker.url();
        Self::new(Broker::RabbitMq(broker), url)
    }

    fn new(broker: Broker, url: String) -> Self {
        // What nodes log belongs into the output of a failing test.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("commlib=info")
            .with_test_writer()
            .try_init();
        Self {
            broker,
            url,
            namespace: unique("world"),
            account: None,
        }
    }

    pub fn builder(&self) -> NodeBuilder {
        Node::builder().namespace(&self.namespace)
    }

    pub async fn connect(&self, builder: NodeBuilder) -> Node {
        builder.connect(&self.url).await.expect("the broker is there")
    }

    pub async fn node(&self) -> Node {
        self.connect(self.builder()).await
    }

    /// A node that is in no namespace.
    pub async fn outside(&self) -> Node {
        self.connect(Node::builder()).await
    }

    /// An address of the namespace as it is at the broker.
    pub fn address(&self, address: &str) -> String {
        format!("{}.{address}", self.namespace)
    }

    pub fn is_redis(&self) -> bool {
        matches!(self.broker, Broker::Redis(_))
    }

    pub fn is_rabbitmq(&self) -> bool {
        matches!(self.broker, Broker::RabbitMq(_))
    }

    pub async fn raw(&self) -> Raw {
        match &self.broker {
            Broker::Memory => Raw::memory(self.url.trim_start_matches("memory://")),
            Broker::Redis(broker) => Raw::redis(broker.port()).await,
            Broker::RabbitMq(broker) => Raw::amqp(&broker.url()).await,
        }
    }

    /// A relay before the broker, and the URL that goes through it.
    pub async fn proxy(&self) -> (FaultProxy, String) {
        let port = match &self.broker {
            Broker::Memory => panic!("the in-process bus has no port"),
            Broker::Redis(broker) => broker.port(),
            Broker::RabbitMq(broker) => broker.port(),
        };
        let proxy = FaultProxy::start(port).await;
        let url = match &self.broker {
            Broker::Memory => unreachable!("left above"),
            Broker::Redis(broker) => broker.url_at(proxy.port()),
            Broker::RabbitMq(broker) => broker.url_at(proxy.port()),
        };
        let url = self
            .account
            .as_ref()
            .map_or(url.clone(), |account| account.url(&url));
        (proxy, url)
    }

    /// Serves the probe on a node of its own.
    pub async fn serve(&self) -> Served {
        self.serve_with(64).await
    }

    pub async fn serve_with(&self, concurrency: u32) -> Served {
        let node = self.node().await;
        serve_on(node, concurrency).await
    }
}

/// A served probe.
pub struct Served {
    pub node: Node,
    pub server: ServerHandle,
    pub seen: Arc<Seen>,
}

pub async fn serve_on(node: Node, concurrency: u32) -> Served {
    let prober = Prober::default();
    let seen = Arc::clone(&prober.seen);
    let server = node
        .serve(ProbeServer::new(prober))
        .concurrency(concurrency)
        .await
        .expect("serving");
    Served { node, server, seen }
}
