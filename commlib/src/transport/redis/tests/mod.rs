//! What the suite that all transports share can't see: keys, lifetimes, connections and the other dialect.

mod connect;
mod consume;
mod dialect;
mod faults;
mod group;
mod rpc;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use commlib_tests::{RedisNode, RedisServer};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::address::Pattern;
use crate::envelope::Meta;
use crate::limits::Limits;
use crate::transport::told::{Told, replies};
use crate::transport::{Delivery, Group, ReplyRoute, RequestSink, Taken, Tls, TopicMessage, TopicSink};

/// How long a test waits for what is to happen.
const LIMIT: Duration = Duration::from_secs(20);

fn options() -> TransportOptions {
    TransportOptions {
        lazy: false,
        connect_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(5),
        limits: Limits::new(),
        dialect: Dialect::Native,
        reply_route: ReplyRoute::Direct,
        tls: Tls::default(),
        node_id: format!("{:024x}", rand::random::<u128>() >> 32),
    }
}

fn url(text: &str) -> BrokerUrl {
    BrokerUrl::parse(text).unwrap()
}

async fn connect_to(server: &RedisNode) -> Arc<dyn Transport> {
    connect(&url(&server.url()), options()).await.unwrap()
}

/// Polls until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !so().await {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What came, with a limit.
async fn next<T>(receiver: &mut UnboundedReceiver<T>) -> T {
    timeout(LIMIT, receiver.recv())
        .await
        .expect("nothing came in time")
        .expect("the sender is gone")
}

fn address(text: &str) -> Address {
    Address::new(text).unwrap()
}

/// An address that no other test uses.
fn unique() -> Address {
    address(&format!("test.{}", commlib_tests::unique("a")))
}

fn message(id: &str, data: &str) -> Envelope {
    Envelope {
        data: data.to_owned().into(),
        meta: Meta {
            id: Some(id.to_owned()),
            ..Meta::default()
        },
    }
}

fn request(address: &Address, id: &str, data: &str) -> Request {
    Request {
        address: address.clone(),
        message: message(id, data),
        time_to_live: Duration::from_secs(10),
        durable: false,
    }
}

async fn open_inbox(transport: &Arc<dyn Transport>) -> UnboundedReceiver<Told> {
    let (sink, told) = replies();
    transport.open_inbox(sink).await.unwrap();
    told
}

/// Hands deliveries to the test.
struct Requests(UnboundedSender<Delivery>);

impl RequestSink for Requests {
    fn deliver(&self, delivery: Delivery) {
        // A test that has ended gives the request back.
        let _ = self.0.send(delivery);
    }
}

fn consume_spec(
    addresses: &[Address],
    concurrency: u32,
) -> (ConsumeSpec, UnboundedReceiver<Delivery>, Arc<Semaphore>) {
    let (sender, receiver) = unbounded_channel();
    let permits = Arc::new(Semaphore::new(concurrency as usize));
    let spec = ConsumeSpec {
        service: "test".into(),
        addresses: addresses.to_vec(),
        permits: Arc::clone(&permits),
        concurrency,
        auto_ack: false,
        max_wait: None,
        max_body: 1024 * 1024,
        sink: Arc::new(Requests(sender)),
    };
    (spec, receiver, permits)
}

async fn consume(
    transport: &Arc<dyn Transport>,
    addresses: &[Address],
    concurrency: u32,
) -> (Box<dyn Consumer>, UnboundedReceiver<Delivery>) {
    let (spec, deliveries, _) = consume_spec(addresses, concurrency);
    (transport.consume(spec).await.unwrap(), deliveries)
}

/// Answers every request with its own data.
struct Echo;

impl RequestSink for Echo {
    fn deliver(&self, delivery: Delivery) {
        let data = match delivery.taken {
            Taken::Message(message) => message.data,
            Taken::Malformed(_) => "\"malformed\"".into(),
            Taken::TooLarge { size } => size.to_string().into(),
        };
        delivery.responder.reply(Envelope {
            data,
            meta: Meta::default(),
        });
    }
}

async fn serve_echo(transport: &Arc<dyn Transport>, address: &Address) -> Box<dyn Consumer> {
    let (mut spec, _, _) = consume_spec(std::slice::from_ref(address), 100);
    spec.sink = Arc::new(Echo);
    transport.consume(spec).await.unwrap()
}

/// What a topic sink was told.
#[derive(Debug, PartialEq)]
enum Heard {
    Message(String, String),
    Gap,
    Dropped(String),
}

struct Topics {
    sender: UnboundedSender<Heard>,
    held: Mutex<Vec<TopicMessage>>,
    hold: bool,
}

impl TopicSink for Topics {
    fn message(&self, message: TopicMessage) {
        let data = String::from_utf8_lossy(&message.message.data).into_owned();
        let _ = self.sender.send(Heard::Message(message.address.clone(), data));
        if self.hold {
            self.held.lock().push(message);
        }
    }

    fn gap(&self) {
        let _ = self.sender.send(Heard::Gap);
    }

    fn dropped(&self, reason: &str) {
        let _ = self.sender.send(Heard::Dropped(reason.to_owned()));
    }
}

fn subscribe_spec(pattern: &str) -> (SubscribeSpec, UnboundedReceiver<Heard>) {
    let (sender, receiver) = unbounded_channel();
    let spec = SubscribeSpec {
        pattern: Pattern::new(pattern).unwrap(),
        group: None,
        durable: None,
        max_body: 1024 * 1024,
        sink: Arc::new(Topics {
            sender,
            held: Mutex::default(),
            hold: false,
        }),
    };
    (spec, receiver)
}

async fn subscribe(
    transport: &Arc<dyn Transport>,
    pattern: &str,
) -> (Box<dyn Subscription>, UnboundedReceiver<Heard>) {
    let (spec, heard) = subscribe_spec(pattern);
    (transport.subscribe(spec).await.unwrap(), heard)
}

async fn publish(transport: &Arc<dyn Transport>, address: &Address, data: &str) -> Accepted {
    let id = format!("{:024x}", rand::random::<u64>());
    transport
        .publish(address.clone(), message(&id, data), PublishOptions::default())
        .await
        .unwrap()
}

/// The number of a connection of a node at the broker, by its role.
async fn client_of(server: &RedisNode, role: &str) -> Option<String> {
    let clients = server.command(&["CLIENT", "LIST"]).await;
    let text = String::from_utf8_lossy(clients.bytes().unwrap_or_default()).into_owned();
    text.lines()
        .find(|line| line.contains(&format!("name=commlib:{role}:")))
        .and_then(|line| line.strip_prefix("id=")?.split(' ').next().map(str::to_owned))
}

async fn kill_client(server: &RedisNode, role: &str) {
    let id = client_of(server, role).await.expect("no such connection");
    server.command(&["CLIENT", "KILL", "ID", &id]).await;
}
