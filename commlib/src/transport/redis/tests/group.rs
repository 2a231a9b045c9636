//! Groups: who handles a message, also where it has no identity.

use super::*;

struct Pair {
    _subscriptions: Vec<Box<dyn Subscription>>,
    heard: Vec<UnboundedReceiver<Heard>>,
}

async fn members(server: &RedisNode, count: usize, topic: &str, group: &str) -> Pair {
    let mut pair = Pair {
        _subscriptions: Vec::new(),
        heard: Vec::new(),
    };
    for _ in 0..count {
        let node = connect_to(server).await;
        let (mut spec, heard) = subscribe_spec(topic);
        spec.group = Some(Group {
            name: group.to_owned(),
            permits: Arc::new(Semaphore::new(10)),
            concurrency: 10,
        });
        pair._subscriptions.push(node.subscribe(spec).await.unwrap());
        pair.heard.push(heard);
    }
    pair
}

/// Takes `count` messages of all members together, and makes sure that there are no more.
async fn gather(pair: &mut Pair, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    let end = Instant::now() + LIMIT;
    while all.len() < count {
        assert!(Instant::now() < end, "only {all:?}");
        for heard in &mut pair.heard {
            while let Ok(what) = heard.try_recv() {
                match what {
                    Heard::Message(_, data) => all.push(data),
                    other => panic!("{other:?}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pair.heard.iter_mut().all(|heard| heard.try_recv().is_err()));
    all
}

/// How many messages have come.
fn drained(heard: &mut UnboundedReceiver<Heard>) -> usize {
    std::iter::from_fn(|| heard.try_recv().ok()).count()
}

#[tokio::test]
async fn one_member_of_each_group_gets_a_message() {
    let server = RedisServer::shared().await;
    let topic = unique();
    let mut workers = members(&server, 3, topic.as_str(), "workers").await;
    let mut loggers = members(&server, 2, topic.as_str(), "loggers").await;
    let publisher = connect_to(&server).await;
    for index in 0..100 {
        publish(&publisher, &topic, &index.to_string()).await;
    }
    for pair in [&mut workers, &mut loggers] {
        let mut all: Vec<usize> = gather(pair, 100)
            .await
            .iter()
            .map(|data| data.parse().unwrap())
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn bare_messages_that_look_the_same_are_each_handled_once() {
    let server = RedisServer::shared().await;
    let topic = unique();
    let group = topic.as_str().replace('.', "-");
    let mut pair = members(&server, 3, topic.as_str(), &group).await;
    let publish = async |many: usize| {
        for _ in 0..many {
            server
                .command(&["PUBLISH", topic.as_str(), "{\"same\":true}"])
                .await;
        }
    };
    publish(100).await;
    assert_eq!(gather(&mut pair, 100).await.len(), 100);
    // Who comes later is in step with the others, once it has seen a message while no other was on its way.
    let late = members(&server, 1, topic.as_str(), &group).await;
    pair.heard.extend(late.heard);
    let _late = late._subscriptions;
    publish(1).await;
    let claims = format!("commlib:claim:{group}:*");
    until("the broker counts for all four", async || {
        let key = server.keys(&claims).await.remove(0);
        // Two more are common to all.
        server.command(&["HLEN", &key]).await.int() == 4 + 2
    })
    .await;
    publish(99).await;
    assert_eq!(gather(&mut pair, 100).await.len(), 100);
    // It takes over when the others leave. What was claimed while it came may leave it one behind.
    let _left = std::mem::take(&mut pair._subscriptions);
    drop(_left);
    publish(20).await;
    let mut taken = 0;
    until("it has taken over", async || {
        taken += pair.heard.iter_mut().map(drained).sum::<usize>();
        taken >= 19
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    taken += pair.heard.iter_mut().map(drained).sum::<usize>();
    assert!(taken <= 20, "{taken}");
    // Claims run out by themselves.
    for key in server.keys(&claims).await {
        let left = server.command(&["PTTL", &key]).await.int();
        assert!((-2..=10_000).contains(&left) && left != -1, "{key} {left}");
    }
}

#[tokio::test]
async fn a_member_without_permits_leaves_messages_to_the_others() {
    let server = RedisServer::shared().await;
    let topic = unique();
    let node = connect_to(&server).await;
    let (mut spec, mut busy) = subscribe_spec(topic.as_str());
    let permits = Arc::new(Semaphore::new(1));
    let held = Arc::clone(&permits).acquire_owned().await.unwrap();
    spec.group = Some(Group {
        name: "workers".into(),
        permits,
        concurrency: 1,
    });
    let _subscription = node.subscribe(spec).await.unwrap();
    let mut free = members(&server, 1, topic.as_str(), "workers").await;
    for index in 0..20 {
        publish(&node, &topic, &index.to_string()).await;
    }
    assert_eq!(gather(&mut free, 20).await.len(), 20);
    drop(held);
    publish(&node, &topic, "20").await;
    until("one of them has it", async || {
        busy.try_recv().is_ok() || free.heard[0].try_recv().is_ok()
    })
    .await;
}
