//! Peers on Redis.

use commlib_tests::{RedisServer, Reply};

use crate::*;

fn envelope(name: &str) -> Value {
    parse(
        vector("envelope.json", "requests_and_replies", name)["wire"]
            .as_str()
            .expect("text")
            .as_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_by_hand_calls_our_server() {
    let broker = RedisServer::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let _server = node
        .serve(CalculatorServer::new(Calc::default()))
        .await
        .expect("a server");
    let reply_list = format!("commlib:reply:{}", token());
    for (method, data, expected) in [
        ("add", json!({"a": 1, "b": 2}), "reply"),
        ("div", json!({"a": 1, "b": 0}), "application error"),
        ("add", json!({"a": 1}), "status error"),
    ] {
        let mut request = envelope("request");
        request["data"] = data;
        request["meta"]["reply_to"] = reply_list.as_str().into();
        request["meta"]["timestamp"] = now_us().into();
        let list = format!("{namespace}.calculator.{method}");
        broker.command(&["RPUSH", &list, &request.to_string()]).await;
        let popped = broker.command(&["BLPOP", &reply_list, "20"]).await.strings();
        let reply = parse(popped[1].as_bytes());
        let wanted = envelope(expected);
        assert_eq!(
            reply["meta"]["correlation_id"], request["meta"]["id"],
            "{expected}"
        );
        assert_eq!(
            reply["meta"]["properties"], wanted["meta"]["properties"],
            "{expected}"
        );
        is_about_now(&reply["meta"]["timestamp"]);
        assert_eq!(names(&reply["meta"]), names(&wanted["meta"]), "{expected}");
        assert_eq!(reply["data"], wanted["data"], "{expected}");
        for field in ["code", "execution", "details"] {
            assert_eq!(
                reply["meta"]["error"][field], wanted["meta"]["error"][field],
                "{expected}"
            );
        }
    }
    // The reply list lives on for a while only.
    let add = format!("{namespace}.calculator.add");
    let request = envelope("request")
        .to_string()
        .replace("commlib:reply:cXV1eHF1dXhiYXpiYXJmb28x", &reply_list);
    let request = request.replace("1795358679842305", &now_us().to_string());
    broker.command(&["RPUSH", add.as_str(), &request]).await;
    commlib_tests::eventually(PATIENCE, || async {
        broker.command(&["LLEN", &reply_list]).await.int() == 1
    })
    .await;
    let ttl = broker.command(&["PTTL", &reply_list]).await.int();
    assert!(ttl > 0 && ttl <= 60_000, "the reply list would live for {ttl} ms");
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
    assert_eq!(
        broker.keys(&format!("commlib:presence:{namespace}.*")).await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_a_server_by_hand() {
    let broker = RedisServer::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let absent = CalculatorClient::new(&node)
        .add(1, 2)
        .await
        .expect_err("nobody serves it");
    assert!(absent.is_no_responders(), "{absent}");
    let div = format!("{namespace}.calculator.div");

    let until = (now_us() / 1000 + 10_000).to_string();
    broker
        .command(&["ZADD", &format!("commlib:presence:{div}"), &until, "by-hand"])
        .await;
    let call = tokio::spawn({
        let client = CalculatorClient::new(&node);
        async move { client.div(1, 0).header("tenant", "x").timeout(PATIENCE).await }
    });
    let popped = broker.command(&["BLPOP", div.as_str(), "20"]).await.strings();
    let request = parse(popped[1].as_bytes());
    assert_eq!(request["data"], json!({"a": 1, "b": 0}));
    is_message_id(&request["meta"]["id"]);
    is_about_now(&request["meta"]["timestamp"]);
    let timeout = request["meta"]["timeout_ms"]
        .as_u64()
        .expect("the time that is left");
    assert!((15_000..=20_000).contains(&timeout), "{timeout}");
    assert_eq!(
        request["meta"]["properties"],
        envelope("request")["meta"]["properties"]
    );
    assert_eq!(request["meta"]["headers"]["tenant"], "x");
    let reply_list = request["meta"]["reply_to"].as_str().expect("a reply address");
    is_message_id(
        &reply_list
            .strip_prefix("commlib:reply:")
            .expect("a reply list")
            .into(),
    );
    let mut reply = envelope("application error");
    reply["meta"]["correlation_id"] = request["meta"]["id"].clone();
    broker.command(&["RPUSH", reply_list, &reply.to_string()]).await;
    match call.await.expect("the call's task") {
        Err(CallError::App(DivError::ByZero)) => {}
        other => panic!("{other:?}"),
    }
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
    assert_eq!(
        broker.command(&["EXISTS", reply_list]).await.int(),
        0,
        "the client removes its list"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics() {
    let broker = RedisServer::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let channel = format!("{namespace}.sensors.sonar.front");
    let mut subscription = SensorsSubscriber::new(&node)
        .sonar(Any)
        .await
        .expect("a subscription");
    let message = vector("envelope.json", "topics", "topic message");
    for payload in [
        message["wire"].as_str().expect("text"),
        r#"{"range": 1.5, "seq": 0}"#,
    ] {
        // A glob crosses dots; a subscriber does not.
        broker
            .command(&["PUBLISH", &format!("{channel}.deeper"), payload])
            .await;
        assert_eq!(broker.command(&["PUBLISH", &channel, payload]).await.int(), 1);
        let next = tokio::time::timeout(PATIENCE, subscription.next())
            .await
            .expect("a message in time");
        let received = next.expect("a message").expect("a reading");
        assert_eq!(received.message, Reading { range: 1.5, seq: 0 });
        assert_eq!(
            (received.topic, received.captures.0),
            ("sensors.sonar.front".to_owned(), "front".to_owned())
        );
    }

    let mut listener = broker.client().await;
    listener.command(&["SUBSCRIBE", &channel]).await;
    let publisher = SensorsPublisher::new(&node);
    let sent = publisher.sonar("front".into(), Reading { range: 1.5, seq: 7 });
    sent.header("tenant", "x").await.expect("a published reading");
    let Reply::Array(push) = listener.read().await else {
        panic!("no message")
    };
    let heard = parse(push[2].bytes().expect("a payload"));
    assert_eq!(heard["data"], json!({"range": 1.5, "seq": 7}));
    assert_eq!(names(&heard), ["data", "meta"]);
    is_message_id(&heard["meta"]["id"]);
    is_about_now(&heard["meta"]["timestamp"]);
    assert_eq!(heard["meta"]["headers"]["tenant"], "x");
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_in_the_form_of_commlib_py() {
    let broker = RedisServer::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let calc = Calc::default();
    let _server = node
        .serve(CalculatorServer::new(calc.clone()))
        .await
        .expect("a server");
    let add = format!("{namespace}.calculator.add");
    let list = format!("rpc-{:032x}", rand::random::<u128>());
    let bad = bad_requests_of_commlib_py(&list);
    // The last one is no JSON: nobody can tell where its answer would go.
    for request in &bad[..bad.len() - 1] {
        broker.command(&["RPUSH", &add, request]).await;
        let popped = broker.command(&["BLPOP", &list, "20"]).await.strings();
        is_refused(&parse(popped[1].as_bytes()));
    }
    broker.command(&["RPUSH", &add, &bad[bad.len() - 1]]).await;
    // Addresses that are not a list for a reply.
    let victim = format!("{namespace}.calculator.div");
    let (upper, long) = (list.to_uppercase(), format!("{list}0"));
    let forged = [
        victim.as_str(),
        "rpc-1",
        &upper,
        &long,
        "commlib:presence:x",
        " ",
        "a\0b",
    ];
    for reply_to in forged {
        let request = json!({"header": {"reply_to": reply_to}, "data": {"a": 1, "b": 2}});
        broker.command(&["RPUSH", &add, &request.to_string()]).await;
    }
    let good = json!({"header": {"reply_to": list}, "data": {"a": 1, "b": 2}});
    broker.command(&["RPUSH", &add, &good.to_string()]).await;
    let popped = broker.command(&["BLPOP", &list, "20"]).await.strings();
    assert_eq!(
        parse(popped[1].as_bytes())["data"],
        json!({"c": 3}),
        "the server goes on"
    );
    for reply_to in forged {
        assert_eq!(
            broker.command(&["EXISTS", reply_to]).await.int(),
            0,
            "{reply_to:?} was written"
        );
    }
    assert_eq!(calc.runs(), 1, "only the good one ran");
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}
