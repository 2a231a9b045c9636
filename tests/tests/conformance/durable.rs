//! Durable topics: groups that are kept, retries, dead letters.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::ServeTopics;
use commlib::{DeadLetter, Durability, Execution, Limits, NodeError, StatusCode};
use commlib_tests::eventually;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::contract::Reading;
use crate::limits::Gauge;
use crate::world::{SOON, World};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

#[commlib::topic(prefix = "orders")]
pub trait Orders {
    #[topic("placed", durable)]
    async fn placed(&self, ctx: &MessageContext, order: Reading) -> Result<(), Refused>;
    #[topic("moved.{shelf}.{row}", durable)]
    async fn moved(&self, shelf: String, row: u8, order: Reading);
}

/// What the handlers of a test do and saw.
#[derive(Clone)]
struct Desk {
    /// Number and attempt of each.
    seen: Arc<Mutex<Vec<(u64, u32)>>>,
    /// These fail until the attempt after this many.
    failing: u64,
    failures: u32,
    panics: bool,
    /// One permit per message that may pass.
    gate: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            seen: Arc::default(),
            failing: u64::MAX,
            failures: u32::MAX,
            panics: false,
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }
}

impl Desk {
    fn seqs(&self) -> Vec<u64> {
        self.seen.lock().iter().map(|(seq, _)| *seq).collect()
    }

    async fn saw(&self, count: usize) -> Vec<(u64, u32)> {
        eventually(SOON, || async { self.seen.lock().len() >= count }).await;
        self.seen.lock().clone()
    }
}

impl Orders for Desk {
    async fn placed(&self, ctx: &MessageContext, order: Reading) -> Result<(), Refused> {
        self.seen.lock().push((order.seq, ctx.attempt()));
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        if order.seq == self.failing && ctx.attempt() <= self.failures {
            assert!(!self.panics, "a panic of the handler");
            return Err(Refused(format!("no such order: {}", order.seq)));
        }
        Ok(())
    }

    async fn moved(&self, _shelf: String, row: u8, order: Reading) {
        self.seen.lock().push((order.seq, row.into()));
    }
}

/// A handler that fails whatever it gets.
pub struct Refusing {
    /// What it got.
    pub handled: Arc<Mutex<Vec<u64>>>,
}

impl Orders for Refusing {
    async fn placed(&self, _ctx: &MessageContext, order: Reading) -> Result<(), Refused> {
        self.handled.lock().push(order.seq);
        Err(Refused("never".to_owned()))
    }

    async fn moved(&self, _shelf: String, _row: u8, _order: Reading) {}
}

impl Orders for Gauge {
    async fn placed(&self, _ctx: &MessageContext, _order: Reading) -> Result<(), Refused> {
        self.run().await;
        Ok(())
    }

    async fn moved(&self, _shelf: String, _row: u8, _order: Reading) {}
}

fn serve(node: &Node, desk: &Desk) -> ServeTopics {
    node.serve(OrdersHandler::new(desk.clone()))
        .group("clerks")
        .retry_delay(Duration::from_millis(20), Duration::from_millis(100))
}

async fn place(publisher: &OrdersPublisher, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        publisher.placed(Reading { seq }).await.expect("publishing");
    }
}

async fn letters(node: &Node, count: usize) -> Vec<DeadLetter> {
    eventually(SOON, || async {
        let letters = node.dead_letters("clerks").list(10).await.expect("listing");
        (letters.len() == count).then_some(letters)
    })
    .await
}

pub async fn a_group_gets_what_was_published_while_it_was_away(world: World) {
    let publisher = OrdersPublisher::new(&world.node().await);
    let desk = Desk::default();
    let node = world.node().await;
    let handle = serve(&node, &desk).await.unwrap();
    let accepted = publisher.placed(Reading { seq: 0 }).await.unwrap();
    assert!(accepted.durability > Durability::None, "{accepted:?}");
    desk.saw(1).await;
    handle.shutdown().await.unwrap();
    place(&publisher, 1..=100).await;
    node.shutdown(SOON).await.unwrap();
    for seq in 101..=200 {
        // The group is away, the broker is not.
        let publish = publisher.placed(Reading { seq }).transient();
        if seq <= 150 {
            let accepted = publish.await.unwrap();
            assert!(accepted.durability > Durability::None, "{accepted:?}");
        } else {
            publish.unconfirmed().await.unwrap();
        }
    }
    assert_eq!(desk.seqs(), [0]);
    let node = world.node().await;
    serve(&node, &desk).await.unwrap();
    desk.saw(201).await;
    place(&publisher, 201..=210).await;
    let seen = desk.saw(211).await;
    assert_eq!(seen, (0..=210).map(|seq| (seq, 1)).collect::<Vec<_>>());
}

pub async fn a_group_of_readers_takes_up_where_it_was(world: World) {
    let publisher = OrdersPublisher::new(&world.node().await);
    let node = world.node().await;
    let subscribe = || OrdersSubscriber::new(&node).placed().group("readers");
    let mut first = subscribe().await.unwrap();
    place(&publisher, 0..10).await;
    for seq in 0..5 {
        assert_eq!(first.next().await.unwrap().unwrap().message.seq, seq);
    }
    // The last one that was read is not acknowledged, as nobody asked for another one.
    drop(first);
    let mut second = subscribe().await.unwrap();
    let mut again = Vec::new();
    while again.len() < 6 {
        let received = timeout(Duration::from_secs(30), second.next())
            .await
            .expect("in time")
            .unwrap()
            .unwrap();
        again.push((received.message.seq, received.attempt));
    }
    again.sort_unstable();
    assert_eq!(
        again.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
        (4..10).collect::<Vec<_>>()
    );
    assert!(again[0].1 > 1, "{again:?}");
}

pub async fn a_failed_message_is_handled_again_and_then_given_up(world: World) {
    let node = world.node().await;
    let desk = Desk {
        failing: 2,
        failures: 1,
        ..Desk::default()
    };
    let handle = serve(&node, &desk).await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    place(&publisher, 1..=3).await;
    let mut seen = desk.saw(4).await;
    seen.sort_unstable();
    assert_eq!(seen, [(1, 1), (2, 1), (2, 2), (3, 1)]);
    handle.shutdown().await.unwrap();
    assert_eq!(letters(&node, 0).await, []);
    // Panics are failures; the cap ends it.
    let desk = Desk {
        failing: 7,
        panics: true,
        ..Desk::default()
    };
    serve(&node, &desk).attempts(3).await.unwrap();
    place(&publisher, [7]).await;
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!(*desk.seen.lock(), [(7, 1), (7, 2), (7, 3)]);
    assert_eq!((letter.topic.as_str(), letter.attempts), ("orders.placed", 3));
    assert_eq!(letter.body.as_ref(), br#"{"seq":7}"#);
    assert!(letter.reason.contains("the handler failed"), "{letter:?}");
    assert!(letter.timestamp.is_some() && letter.died.is_some(), "{letter:?}");
}

pub async fn a_message_that_cannot_be_read_is_given_up_at_once(world: World) {
    let node = world.node().await;
    let desk = Desk::default();
    serve(&node, &desk).await.unwrap();
    OldOrdersPublisher::new(&node)
        .placed("not a number".to_owned())
        .header("k", "v")
        .await
        .unwrap();
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!(letter.attempts, 1);
    assert_eq!(letter.body.as_ref(), br#""not a number""#);
    assert_eq!(letter.headers.get("k"), Some("v"));
    assert!(letter.reason.contains("not what the method takes"), "{letter:?}");
    assert_eq!(desk.seqs(), [] as [u64; 0]);
}

/// The same topics in an older version.
#[commlib::topic(prefix = "orders")]
pub trait OldOrders {
    #[topic("placed", durable)]
    async fn placed(&self, order: String);
}

pub async fn a_dead_letter_is_sent_again_or_discarded(world: World) {
    let node = world.node().await;
    let desk = Desk {
        failing: 5,
        ..Desk::default()
    };
    let handle = serve(&node, &desk).attempts(2).await.unwrap();
    let mut auditors = OrdersSubscriber::new(&world.node().await)
        .placed()
        .group("auditors")
        .await
        .unwrap();
    let publisher = OrdersPublisher::new(&node);
    place(&publisher, [5]).await;
    let letter = letters(&node, 1).await.remove(0);
    handle.shutdown().await.unwrap();
    let dead = node.dead_letters("clerks");
    assert!(!dead.resend("0-0").await.unwrap());
    assert!(!node.dead_letters("nobody").resend(&letter.id).await.unwrap());
    assert!(dead.resend(&letter.id).await.unwrap());
    assert!(!dead.resend(&letter.id).await.unwrap());
    assert_eq!(letters(&node, 0).await, []);
    // It comes as for the first time, and fails again.
    let desk = Desk {
        failing: 5,
        ..Desk::default()
    };
    serve(&node, &desk).attempts(2).await.unwrap();
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!(*desk.seen.lock(), [(5, 1), (5, 2)]);
    assert!(dead.discard(&letter.id).await.unwrap());
    assert!(!dead.discard(&letter.id).await.unwrap());
    assert_eq!(letters(&node, 0).await, []);
    // The other group got it once: a dead letter goes to its own group.
    place(&publisher, [6]).await;
    for seq in [5, 6] {
        assert_eq!(auditors.next().await.unwrap().unwrap().message.seq, seq);
    }
}

pub async fn members_share_and_groups_do_not(world: World) {
    let clerks = Desk::default();
    for _ in 0..2 {
        let node = world.node().await;
        serve(&node, &clerks).concurrency(8).await.unwrap();
    }
    let others = Desk::default();
    let node = world.node().await;
    node.serve(OrdersHandler::new(others.clone()))
        .group("others")
        .concurrency(64)
        .await
        .unwrap();
    let publisher = OrdersPublisher::new(&world.node().await);
    place(&publisher, 0..200).await;
    for desk in [&clerks, &others] {
        let mut seqs: Vec<_> = desk.saw(200).await.iter().map(|(seq, _)| *seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (0..200).collect::<Vec<_>>());
    }
}

pub async fn what_a_member_leaves_unhandled_goes_to_another(world: World) {
    let gone = Desk {
        gate: Arc::new(Semaphore::new(0)),
        ..Desk::default()
    };
    let node = world.node().await;
    serve(&node, &gone).concurrency(4).await.unwrap();
    let publisher = OrdersPublisher::new(&world.node().await);
    place(&publisher, 0..10).await;
    gone.saw(4).await;
    // The handlers do not finish: their node ends them.
    node.shutdown(Duration::ZERO).await.unwrap_err();
    let desk = Desk::default();
    let node = world.node().await;
    serve(&node, &desk).await.unwrap();
    let seqs: HashSet<_> = desk.saw(10).await.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (0..10).collect());
    let seen = desk.seen.lock();
    assert!(
        seen.iter().all(|(seq, attempt)| (*attempt > 1) == (*seq < 4)),
        "{seen:?}"
    );
}

pub async fn members_that_come_and_go_lose_nothing(world: World) {
    let (node, desk) = (world.node().await, Desk::default());
    let mut member = serve(&node, &desk).await.unwrap();
    let publisher = OrdersPublisher::new(&world.node().await);
    let enough = Arc::new(AtomicBool::new(false));
    let (stop, seen) = (Arc::clone(&enough), Arc::clone(&desk.seen));
    let publishing = tokio::spawn(async move {
        let mut published = 0;
        while !stop.load(Ordering::Relaxed) {
            place(&publisher, [published]).await;
            published += 1;
            // The queue has a limit.
            eventually(SOON, || async { published < seen.lock().len() as u64 + 100 }).await;
        }
        published
    });
    for _ in 0..10 {
        let handled = desk.seen.lock().len();
        desk.saw(handled + 1).await;
        member.shutdown().await.unwrap();
        member = serve(&node, &desk).await.unwrap();
    }
    enough.store(true, Ordering::Relaxed);
    let published: u64 = publishing.await.unwrap();
    eventually(SOON, || async {
        desk.seqs().into_iter().collect::<HashSet<_>>().len() as u64 == published
    })
    .await;
    assert_eq!(letters(&node, 0).await, []);
}

pub async fn captures_of_durable_topics_select(world: World) {
    let node = world.node().await;
    let desk = Desk::default();
    let handle = serve(&node, &desk).await.unwrap();
    let subscribe = || OrdersSubscriber::new(&node).moved("a", Any).group("clerks");
    drop(subscribe().await.unwrap());
    handle.shutdown().await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    for (seq, shelf) in ["a", "b", "a"].iter().enumerate() {
        let order = Reading { seq: seq as u64 };
        publisher.moved((*shelf).to_owned(), 7, order).await.unwrap();
    }
    serve(&node, &desk).await.unwrap();
    assert_eq!(desk.saw(3).await, [(0, 7), (1, 7), (2, 7)]);
    let mut selected = subscribe().await.unwrap();
    for seq in [0, 2] {
        let received = timeout(SOON, selected.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (received.captures, received.message.seq),
            (("a".to_owned(), 7), seq)
        );
    }
}

pub async fn listeners_without_a_group_hear_durable_topics(world: World) {
    let node = world.node().await;
    let mut listener = OrdersSubscriber::new(&node).placed().await.unwrap();
    let desk = Desk::default();
    node.serve(OrdersHandler::new(desk.clone())).live().await.unwrap();
    let publisher = OrdersPublisher::new(&world.node().await);
    place(&publisher, [1]).await;
    assert_eq!(
        timeout(SOON, listener.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message
            .seq,
        1
    );
    assert_eq!(desk.saw(1).await, [(1, 1)]);
}

pub async fn a_group_without_members_can_be_removed(world: World) {
    let node = world.node().await;
    let remove = || OrdersSubscriber::new(&node).placed().remove_group("clerks");
    assert!(!remove().await.unwrap(), "there is no group yet");
    let desk = Desk::default();
    let handle = serve(&node, &desk).await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    place(&publisher, [1]).await;
    desk.saw(1).await;
    let error = remove().await.unwrap_err();
    assert!(matches!(error, NodeError::GroupInUse { .. }), "{error}");
    assert!(error.to_string().contains("`clerks`"), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
    handle.shutdown().await.unwrap();
    place(&publisher, 2..10).await;
    assert!(eventually(SOON, remove).await);
    assert!(!remove().await.unwrap(), "it is gone");
    // A new one begins with what comes then.
    place(&publisher, 10..20).await;
    serve(&node, &desk).await.unwrap();
    place(&publisher, [20]).await;
    assert_eq!(desk.saw(2).await, [(1, 1), (20, 1)]);
    let error = OrdersSubscriber::new(&node)
        .placed()
        .remove_group("a.b")
        .await
        .unwrap_err();
    assert!(matches!(error, NodeError::Address { .. }), "{error}");
}

async fn keeping(world: &World, limits: Limits) -> Node {
    world.connect(world.builder().limits(limits)).await
}

/// How many more Redis keeps of what it removes in blocks.
const BLOCK: u64 = 100;

pub async fn a_group_has_no_more_messages_than_its_node_says(world: World) {
    let node = keeping(&world, Limits::new().backlog(20)).await;
    let desk = Desk::default();
    serve(&node, &desk).await.unwrap().shutdown().await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    place(&publisher, 0..20).await;
    // The others take no more; Redis lets go of the oldest.
    let mut last = 19;
    match publisher.placed(Reading { seq: 20 }).await {
        Ok(_) => {
            assert!(world.is_redis());
            last = 20 + 5 * BLOCK;
            place(&publisher, 21..=last).await;
        }
        Err(error) => {
            assert!(!world.is_redis(), "{error}");
            assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
            assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
        }
    }
    serve(&node, &desk).await.unwrap();
    eventually(SOON, || async { desk.seqs().contains(&last) }).await;
    let seqs = desk.seqs();
    let first = seqs[0];
    assert_eq!(seqs, (first..=last).collect::<Vec<_>>());
    if world.is_redis() {
        assert!((20..=20 + BLOCK).contains(&(seqs.len() as u64)), "{}", seqs.len());
    } else {
        assert_eq!(first, 0);
        // There is room again.
        place(&publisher, 21..22).await;
        eventually(SOON, || async { desk.seqs().contains(&21) }).await;
    }
}

/// Fails even numbers, and tells of odd ones.
#[derive(Clone, Default)]
struct Odd(Arc<Mutex<Vec<u64>>>);

impl Orders for Odd {
    async fn placed(&self, _ctx: &MessageContext, order: Reading) -> Result<(), Refused> {
        if order.seq.is_multiple_of(2) {
            return Err(Refused("even".to_owned()));
        }
        self.0.lock().push(order.seq);
        Ok(())
    }

    async fn moved(&self, _shelf: String, _row: u8, _order: Reading) {}
}

pub async fn a_group_has_no_more_dead_letters_than_its_node_says(world: World) {
    let node = keeping(&world, Limits::new().dead_letters(3)).await;
    let odd = Odd::default();
    let handler = node.serve(OrdersHandler::new(odd.clone())).group("clerks");
    handler.attempts(1).await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    // The first so many even numbers become dead letters; then nothing is on its way to them any more, for RabbitMQ does
    // not count those that are being listed.
    let die = async |from: u64, to: u64| {
        for number in from..to {
            place(&publisher, [2 * number, 2 * number + 1]).await;
        }
        eventually(SOON, || async { odd.0.lock().last() == Some(&(2 * to - 1)) }).await;
        eventually(SOON, || async {
            let letters = node.dead_letters("clerks").list(1000).await.expect("listing");
            let number = |letter: &DeadLetter| {
                let order: Reading = serde_json::from_slice(&letter.body).unwrap();
                order.seq / 2
            };
            let letters: Vec<_> = letters.iter().map(number).collect();
            letters.contains(&(to - 1)).then_some(letters)
        })
        .await
    };
    for (count, first) in [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)] {
        // Redis removes blocks of them.
        let first = if world.is_redis() { 0 } else { first };
        assert_eq!(die(count - 1, count).await, (first..count).collect::<Vec<_>>());
    }
    if world.is_redis() {
        let last = 5 + 2 * BLOCK;
        let letters = die(5, last).await;
        assert!((3..=3 + BLOCK).contains(&(letters.len() as u64)), "{letters:?}");
        assert_eq!(letters, (letters[0]..last).collect::<Vec<_>>());
    }
}

pub async fn the_members_of_a_group_agree_on_its_messages(world: World) {
    let limits = |messages| Limits::new().backlog(messages);
    let node = keeping(&world, limits(20)).await;
    serve(&node, &Desk::default()).await.unwrap();
    match serve(&keeping(&world, limits(21)).await, &Desk::default()).await {
        Ok(_) => assert!(!world.is_rabbitmq()),
        Err(error) => {
            assert!(world.is_rabbitmq(), "{error}");
            assert!(error.to_string().contains("other properties"), "{error}");
        }
    }
}

pub async fn a_member_handles_no_more_at_once_than_it_says(world: World) {
    let (node, gauge) = (world.node().await, Gauge::default());
    let handler = node.serve(OrdersHandler::new(gauge.clone())).group("clerks");
    handler.concurrency(3).await.unwrap();
    let publisher = OrdersPublisher::new(&node);
    gauge
        .reads_at_most_three(async |seq| place(&publisher, [seq]).await)
        .await;
}

pub async fn a_durable_topic_needs_a_group(world: World) {
    let node = world.node().await;
    let error = node.serve(OrdersHandler::new(Desk::default())).await.unwrap_err();
    assert!(error.to_string().contains(".group("), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
}
