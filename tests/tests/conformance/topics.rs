//! Topics: patterns, captures, lag, groups, handlers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{Pattern, topic};
use commlib_tests::eventually;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::contract::{Collector, Reading, SensorsHandler, SensorsPublisher, SensorsSubscriber, Side};
use crate::world::{SOON, World};

/// The next item, which must come soon.
async fn next<M: commlib::Message, C: topic::Captures>(
    subscription: &mut topic::Subscription<M, C>,
) -> Result<commlib::Received<M, C>, RecvError> {
    timeout(SOON, subscription.next())
        .await
        .expect("a message in time")
        .expect("not the end")
}

pub async fn a_message_reaches_every_matching_subscription_once(world: World) {
    let node = world.node().await;
    let untyped = TopicSubscriber::new(&node);
    let patterns = [
        "sensors.sonar.front",
        "sensors.sonar.*",
        "sensors.*.front",
        "sensors.#",
        "#",
        "sensors.sonar.front.#",
    ];
    let mut subscriptions = Vec::new();
    for pattern in patterns {
        subscriptions.push(
            untyped
                .pattern::<Reading>(Pattern::new(pattern).unwrap())
                .await
                .unwrap(),
        );
    }
    let mut not = untyped
        .pattern::<Reading>(Pattern::new("sensors.*").unwrap())
        .await
        .unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    for seq in 0..20 {
        publisher.sonar(Side::Front, Reading { seq }).await.unwrap();
    }
    publisher.bumper(Reading { seq: 99 }).await.unwrap();
    for (pattern, subscription) in patterns.iter().zip(&mut subscriptions) {
        for seq in 0..20 {
            assert_eq!(
                next(subscription).await.unwrap().message,
                Reading { seq },
                "{pattern}"
            );
        }
    }
    assert_eq!(next(&mut not).await.unwrap().topic, "sensors.bumper");
}

pub async fn captured_levels_come_typed_and_select(world: World) {
    let subscriber = SensorsSubscriber::new(&world.node().await);
    let mut all = subscriber.level(Any, Any).await.unwrap();
    let mut room = subscriber.level(Any, 7).await.unwrap();
    let mut front = subscriber.level(Side::Front, Any).await.unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    publisher.level(Side::Rear, 7, Reading { seq: 1 }).await.unwrap();
    publisher.level(Side::Front, 8, Reading { seq: 2 }).await.unwrap();
    // In the order of the template, not of the arguments.
    assert_eq!(next(&mut all).await.unwrap().captures, (7, Side::Rear));
    let second = next(&mut all).await.unwrap();
    assert_eq!((second.captures, second.message.seq), ((8, Side::Front), 2));
    assert_eq!(second.topic, "sensors.room.8.front.level");
    assert!(second.timestamp.is_some());
    assert_eq!(next(&mut room).await.unwrap().message.seq, 1);
    assert_eq!(next(&mut front).await.unwrap().message.seq, 2);
}

pub async fn wildcards_keep_to_levels(world: World) {
    let node = world.node().await;
    let untyped = TopicSubscriber::new(&node);
    let mut one = untyped
        .pattern::<u32>(Pattern::new("a.*").unwrap())
        .await
        .unwrap();
    let mut rest = untyped
        .pattern::<u32>(Pattern::new("a.#").unwrap())
        .await
        .unwrap();
    let raw = world.raw().await;
    for (n, topic) in ["a.b.c", "ab.c", "a", "a.b"].iter().enumerate() {
        raw.publish(&world.address(topic), n.to_string().as_bytes()).await;
    }
    assert_eq!(next(&mut one).await.unwrap().topic, "a.b");
    for topic in ["a.b.c", "a", "a.b"] {
        assert_eq!(next(&mut rest).await.unwrap().topic, topic);
    }
}

pub async fn a_slow_reader_is_told_how_many_it_missed(world: World) {
    let mut slow = SensorsSubscriber::new(&world.node().await)
        .sonar(Any)
        .buffer(5)
        .await
        .unwrap();
    let mut witness = SensorsSubscriber::new(&world.node().await)
        .sonar(Any)
        .buffer(1000)
        .await
        .unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    for seq in 0..100 {
        publisher.sonar(Side::Front, Reading { seq }).await.unwrap();
    }
    for seq in 0..100 {
        assert_eq!(next(&mut witness).await.unwrap().message.seq, seq);
    }
    // Slower than those who can wait for a reader do wait, by far.
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The slow one's last message comes on its own connection, maybe a little later.
    let mut seen = Vec::new();
    let mut missed = 0;
    while seen.last() != Some(&99) {
        match next(&mut slow).await {
            Ok(received) => seen.push(received.message.seq),
            Err(RecvError::Lagged(n)) => missed += n,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(seen.len() as u64 + missed, 100, "{seen:?}");
    assert!(seen.is_sorted() && missed > 0, "{seen:?}");
}

pub async fn a_group_shares_the_messages(world: World) {
    let mut members = Vec::new();
    for _ in 0..3 {
        let subscriber = SensorsSubscriber::new(&world.node().await);
        // Small enough that no member can take all before anybody reads.
        members.push(subscriber.sonar(Any).group("workers").buffer(50).await.unwrap());
    }
    let mut alone = SensorsSubscriber::new(&world.node().await)
        .sonar(Any)
        .group("loggers")
        .buffer(1000)
        .await
        .unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    for seq in 0..300 {
        publisher.sonar(Side::Front, Reading { seq }).await.unwrap();
    }
    let mut seqs = HashSet::new();
    let mut got = [0; 3];
    eventually(SOON, || {
        for (member, got) in members.iter_mut().zip(&mut got) {
            while let Some(Some(item)) = futures_util::FutureExt::now_or_never(member.next()) {
                assert!(seqs.insert(item.unwrap().message.seq), "a message came twice");
                *got += 1;
            }
        }
        let all = seqs.len() == 300;
        async move { all }
    })
    .await;
    for seq in 0..300 {
        assert_eq!(next(&mut alone).await.unwrap().message.seq, seq);
    }
    assert!(got.iter().all(|got| *got > 0), "{got:?}");
}

pub async fn a_handler_gets_messages_in_order(world: World) {
    let collector = Collector::default();
    let node = world.node().await;
    let handle = node.serve(SensorsHandler::new(collector.clone())).await.unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    for seq in 0..50 {
        publisher.sonar(Side::Rear, Reading { seq }).await.unwrap();
    }
    eventually(SOON, || async { collector.readings.lock().len() == 50 }).await;
    let wanted: Vec<_> = (0..50).map(|seq| (Side::Rear, seq)).collect();
    assert_eq!(*collector.readings.lock(), wanted);
    handle.shutdown().await.unwrap();
    publisher.bumper(Reading { seq: 1 }).await.unwrap();
    node.shutdown(SOON).await.unwrap();
    assert_eq!(collector.readings.lock().len(), 50);
}

pub async fn messages_that_are_awaited_together_keep_their_order(world: World) {
    const MANY: u64 = 2_000;
    let subscriber = SensorsSubscriber::new(&world.node().await);
    let mut subscription = subscriber.bumper().await.unwrap();
    for unconfirmed in [false, true] {
        // With the first messages of a node, for which there is no channel yet.
        let publisher = SensorsPublisher::new(&world.node().await);
        let publishes = stream::iter(0..MANY).map(|seq| {
            let publish = publisher.bumper(Reading { seq });
            if unconfirmed {
                publish.unconfirmed().into_future()
            } else {
                publish.into_future()
            }
        });
        // More at once than a task does before it yields.
        let mut publishes = publishes.buffered(300);
        while let Some(published) = publishes.next().await {
            published.unwrap();
        }
        for seq in 0..MANY {
            assert_eq!(next(&mut subscription).await.unwrap().message.seq, seq);
        }
    }
}

pub async fn handlers_of_a_group_share_the_messages(world: World) {
    let readings = Arc::default();
    for _ in 0..2 {
        let collector = Collector {
            readings: Arc::clone(&readings),
            ..Collector::default()
        };
        let node = world.node().await;
        node.serve(SensorsHandler::new(collector))
            .group("loggers")
            .concurrency(4)
            .await
            .unwrap();
    }
    let publisher = SensorsPublisher::new(&world.node().await);
    for seq in 0..100 {
        publisher.sonar(Side::Front, Reading { seq }).await.unwrap();
    }
    eventually(SOON, || async { readings.lock().len() >= 100 }).await;
    // Whatever comes twice comes before this.
    publisher.bumper(Reading { seq: 100 }).await.unwrap();
    eventually(SOON, || async {
        readings.lock().iter().any(|(_, seq)| *seq == 100)
    })
    .await;
    let mut seqs: Vec<_> = readings.lock().iter().map(|(_, seq)| *seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..=100).collect::<Vec<_>>());
}

pub async fn a_dropped_subscription_ends(world: World) {
    let node = world.node().await;
    let publisher = SensorsPublisher::new(&world.node().await);
    let subscriber = SensorsSubscriber::new(&node);
    drop(subscriber.bumper().await.unwrap());
    // A new one on the same connection hears only what is published from now on.
    publisher.bumper(Reading { seq: 1 }).await.unwrap();
    let mut second = subscriber.bumper().await.unwrap();
    publisher.bumper(Reading { seq: 2 }).await.unwrap();
    assert_eq!(next(&mut second).await.unwrap().message.seq, 2);
}

pub async fn a_stopped_subscription_gives_what_it_has_and_ends(world: World) {
    let node = world.node().await;
    // Both are fed by one node; the first subscription may be fed a moment after the witness, or more on a busy machine.
    for moment in [50, 500, 5000] {
        let mut subscription = SensorsSubscriber::new(&node).bumper().await.unwrap();
        let mut witness = SensorsSubscriber::new(&node).bumper().await.unwrap();
        SensorsPublisher::new(&node)
            .bumper(Reading { seq: 1 })
            .await
            .unwrap();
        next(&mut witness).await.unwrap();
        tokio::time::sleep(Duration::from_millis(moment)).await;
        subscription.stop().await;
        if let Some(kept) = timeout(SOON, subscription.next()).await.unwrap() {
            assert_eq!(kept.unwrap().message.seq, 1);
            assert!(timeout(SOON, subscription.next()).await.unwrap().is_none());
            return;
        }
    }
    panic!("a message that it had was gone");
}

pub async fn an_unusable_message_is_a_notice(world: World) {
    let mut subscription = SensorsSubscriber::new(&world.node().await)
        .sonar(Any)
        .await
        .unwrap();
    let raw = world.raw().await;
    raw.publish(&world.address("sensors.sonar.front"), br#"{"seq":"many"}"#)
        .await;
    raw.publish(&world.address("sensors.sonar.upside_down"), br#"{"seq":1}"#)
        .await;
    raw.publish(&world.address("sensors.sonar.front"), br#"{"seq":1,"more":2}"#)
        .await;
    let error = next(&mut subscription).await.unwrap_err();
    assert!(
        matches!(&error, RecvError::Decode { topic, .. } if topic == "sensors.sonar.front"),
        "{error}"
    );
    let error = next(&mut subscription).await.unwrap_err();
    assert!(
        error.to_string().contains("unknown variant `upside_down`"),
        "{error}"
    );
    assert_eq!(next(&mut subscription).await.unwrap().message.seq, 1);
}

pub async fn one_that_joins_others_hears_nothing_of_before(world: World) {
    let node = world.node().await;
    let subscriber = SensorsSubscriber::new(&node);
    let _others = subscriber.bumper().await.unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    for round in 0..50 {
        let (before, after) = (round * 100, round * 100 + 99);
        for seq in before..before + 20 {
            publisher.bumper(Reading { seq }).await.unwrap();
        }
        let mut joins = subscriber.bumper().await.unwrap();
        publisher.bumper(Reading { seq: after }).await.unwrap();
        assert_eq!(next(&mut joins).await.unwrap().message.seq, after);
    }
}

pub async fn untyped_subscriptions_hear_everything(world: World) {
    let node = world.node().await;
    let mut all = TopicSubscriber::new(&node)
        .pattern::<serde_json::Value>(Pattern::new("#").unwrap())
        .await
        .unwrap();
    SensorsPublisher::new(&node)
        .bumper(Reading { seq: 3 })
        .header("k", "v")
        .await
        .unwrap();
    let received = next(&mut all).await.unwrap();
    assert_eq!(
        (received.topic.as_str(), &received.message["seq"]),
        ("sensors.bumper", &3.into())
    );
    assert_eq!(received.headers.get("k"), Some("v"));
}

pub async fn the_trace_goes_through_topics(world: World) {
    let collector = Collector::default();
    let node = world.node().await;
    node.serve(SensorsHandler::new(collector.clone())).await.unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    SensorsPublisher::new(&node)
        .sonar(Side::Front, Reading { seq: 1 })
        .header("traceparent", parent)
        .await
        .unwrap();
    eventually(SOON, || async { collector.traces.lock().len() == 1 }).await;
    assert_eq!(collector.traces.lock()[0].as_deref(), Some(parent));
}

pub async fn a_bad_level_is_refused_before_it_is_sent(world: World) {
    let node = world.node().await;
    let subscriber = TopicSubscriber::new(&node);
    assert!(Pattern::new("a.*b").is_err());
    let error = subscriber
        .pattern::<u32>(Pattern::new("a").unwrap())
        .group("two.levels")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("one level"), "{error}");
}
