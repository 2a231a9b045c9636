//! What depends on the order in which tasks get their turn: here it is the test that gives it to them.

mod alarm;
mod end;
mod returns;
mod stop;

use futures_util::future::poll_immediate;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::envelope::{Dialect, Envelope};
use crate::error::Execution;
use crate::limits::Limits;
use crate::transport::told::{Told, replies};

/// How long a test waits for what is to happen, on a slow machine too.
const LIMIT: Duration = Duration::from_secs(60);

async fn open_at(url: &str) -> Arc<Amqp> {
    let options = TransportOptions {
        lazy: false,
        connect_timeout: LIMIT,
        operation_timeout: LIMIT,
        limits: Limits::new(),
        dialect: Dialect::Native,
        reply_route: ReplyRoute::Direct,
        tls: Tls::default(),
        node_id: format!("{:024x}", rand::random::<u128>() >> 32),
    };
    open(&BrokerUrl::parse(url).unwrap(), options).await.unwrap()
}

/// An address that no other test uses.
fn unique() -> Address {
    Address::new(format!("test.{}", commlib_tests::unique("a"))).unwrap()
}

/// The connection that publishes.
async fn link(amqp: &Amqp) -> Arc<supervisor::Link> {
    let mut links = amqp.publishing.links();
    supervisor::next_link(&mut links).await.unwrap()
}

/// A queue that goes with the connection.
async fn queue(link: &supervisor::Link) -> Address {
    let queue = unique();
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = link.channel().await.unwrap();
    let declare = channel.queue_declare(name(queue.as_str()), exclusive, FieldTable::default());
    declare.await.unwrap();
    queue
}

/// A lane whose task is the test.
fn lane(amqp: &Amqp, kind: Kind) -> Arc<Lane> {
    let closing = CancellationToken::new();
    Lane::new(kind, Arc::clone(&amqp.publishing), LIMIT, closing)
}

/// One for requests without confirms, and what their callers are told.
fn requests(amqp: &Amqp) -> (Arc<Lane>, UnboundedReceiver<Told>) {
    let (sink, told) = replies();
    let inbox = Inbox {
        sink,
        route: ReplyRoute::Direct,
        max_body: 1024,
        routes: Arc::default(),
    };
    let confirmed = false;
    (lane(amqp, Kind::Requests { inbox, confirmed }), told)
}

/// What came, with a limit.
async fn next<T>(receiver: &mut UnboundedReceiver<T>) -> T {
    tokio::time::timeout(LIMIT, receiver.recv())
        .await
        .expect("nothing came in time")
        .expect("the sender is gone")
}

/// A request as it is queued.
fn job(key: &Address, id: &str) -> Job {
    Job {
        exchange: name(""),
        key: name(key.as_str()),
        properties: BasicProperties::default().with_message_id(id.into()),
        body: "{}".into(),
        outcome: Outcome::Request {
            id: id.to_owned(),
            since: Instant::now(),
        },
    }
}
