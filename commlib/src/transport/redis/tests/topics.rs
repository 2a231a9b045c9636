//! Topics: channels and globs that are shared, and what both dialects publish.

use commlib_tests::Reply;

use super::*;

async fn subscriptions_at(server: &RedisNode, channel: &str) -> i64 {
    match server.command(&["PUBSUB", "NUMSUB", channel]).await {
        Reply::Array(counts) => counts[1].int(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn channels_and_globs_are_shared_and_given_up_with_the_last() {
    let server = RedisServer::start().await;
    let node = connect_to(&server).await;
    let (first, mut heard_first) = subscribe(&node, "a.b").await;
    let (second, mut heard_second) = subscribe(&node, "a.b").await;
    let (glob, mut heard_glob) = subscribe(&node, "a.*").await;
    let (rest, mut heard_rest) = subscribe(&node, "a.#").await;
    let accepted = publish(&node, &address("a.b"), "1").await;
    // One channel and two globs of one connection.
    assert_eq!(accepted.receivers, Some(3));
    let expected = Heard::Message("a.b".into(), "1".into());
    for heard in [
        &mut heard_first,
        &mut heard_second,
        &mut heard_glob,
        &mut heard_rest,
    ] {
        assert_eq!(next(heard).await, expected);
    }
    first.stop().await;
    publish(&node, &address("a.b"), "2").await;
    assert_eq!(
        next(&mut heard_second).await,
        Heard::Message("a.b".into(), "2".into())
    );
    assert!(heard_first.try_recv().is_err());
    second.stop().await;
    drop((glob, rest));
    until("the broker knows no subscription", async || {
        subscriptions_at(&server, "a.b").await == 0 && server.command(&["PUBSUB", "NUMPAT"]).await.int() == 0
    })
    .await;
    // At once again, while the end of the last may still be on its way.
    for round in 0..50 {
        let (subscription, mut heard) = subscribe(&node, "a.b").await;
        publish(&node, &address("a.b"), &round.to_string()).await;
        assert_eq!(
            next(&mut heard).await,
            Heard::Message("a.b".into(), round.to_string())
        );
        drop(subscription);
    }
}

#[tokio::test]
async fn both_dialects_are_heard() {
    let server = RedisServer::shared().await;
    let topic = unique();
    let native = connect_to(&server).await;
    let mut python = options();
    python.dialect = Dialect::CommlibPy;
    let python = connect(&url(&server.url()), python).await.unwrap();
    let (_subscription, mut heard) = subscribe(&native, topic.as_str()).await;
    let mut raw = server.client().await;
    raw.command(&["SUBSCRIBE", topic.as_str()]).await;
    for (node, wire) in [(&python, Some("{\"range\":1}")), (&native, None)] {
        publish(node, &topic, "{\"range\":1}").await;
        assert_eq!(
            next(&mut heard).await,
            Heard::Message(topic.to_string(), "{\"range\":1}".into())
        );
        let payload = raw.read().await.strings().pop().unwrap();
        match wire {
            Some(wire) => assert_eq!(payload, wire),
            None => assert!(
                payload.starts_with("{\"data\":{\"range\":1},\"meta\":{"),
                "{payload}"
            ),
        }
    }
}

#[tokio::test]
async fn messages_over_the_limit_and_garbage_are_notices() {
    let server = RedisServer::shared().await;
    let node = connect_to(&server).await;
    let topic = unique();
    let (_subscription, mut heard) = subscribe(&node, topic.as_str()).await;
    let large = "x".repeat(3 * 1024 * 1024);
    for payload in ["{", "\u{0}", &large, &large[..1024 * 1024 + 10]] {
        server.command(&["PUBLISH", topic.as_str(), payload]).await;
        match next(&mut heard).await {
            Heard::Dropped(reason) => assert!(reason.len() < 200, "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    publish(&node, &topic, "1").await;
    assert_eq!(
        next(&mut heard).await,
        Heard::Message(topic.to_string(), "1".into())
    );
}

#[tokio::test]
async fn a_refused_subscription_is_told_and_a_lost_permission_is_waited_for() {
    let server = RedisServer::start().await;
    let set = async |rules: &[&str]| {
        let mut words = vec!["ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all"];
        words.extend_from_slice(rules);
        server.command(&words).await;
    };
    set(&["resetchannels", "&mine.*"]).await;
    let limited = server.url().replace("redis://", "redis://limited:pw@");
    let node = connect(&url(&limited), options()).await.unwrap();
    let (spec, _heard) = subscribe_spec("theirs.a");
    let error = node.subscribe(spec).await.err().unwrap();
    assert_eq!(error.kind, TransportErrorKind::Forbidden, "{error}");
    let (_subscription, mut heard) = subscribe(&node, "mine.a").await;

    // Redis cuts a subscriber off whose channels it takes away, and refuses it from then on.
    set(&["resetchannels"]).await;
    until("the subscriber has come back and was refused", async || {
        client_of(&server, "subscriber").await.is_some()
    })
    .await;
    assert!(heard.try_recv().is_err());
    set(&["resetchannels", "&mine.*"]).await;
    assert_eq!(next(&mut heard).await, Heard::Gap);
    publish(&node, &address("mine.a"), "1").await;
    assert_eq!(
        next(&mut heard).await,
        Heard::Message("mine.a".into(), "1".into())
    );
}
