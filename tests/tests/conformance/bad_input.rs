//! Bad input: answered with a typed error where an answer is possible, never executed, never fatal.

use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{Address, Pattern, rpc::RpcClient};

use crate::contract::{ProbeClient, Reading, Sum};
use crate::raw::{Answer, Raw};
use crate::world::{SOON, Served, World, serve_on};

/// The server still serves, and has run nothing but this.
async fn unharmed(world: &World, served: &Served) {
    let runs = served.seen.runs();
    assert_eq!(runs, 0, "something of the bad input ran");
    assert_eq!(
        ProbeClient::new(&world.node().await).add(1, 2).await.unwrap(),
        Sum { c: 3 }
    );
    assert_eq!(served.seen.runs(), 1);
}

fn refused(answer: &Answer, code: &str) {
    assert_eq!(answer.error.as_deref(), Some(code), "{answer:?}");
    assert_eq!(answer.execution, "not_run", "{answer:?}");
    assert!(!answer.message.is_empty());
    for inside in ["panicked", ".rs:", "/src/", "commlib::"] {
        assert!(!answer.message.contains(inside), "{answer:?}");
    }
}

async fn setup(world: &World) -> (Served, Raw, String) {
    let served = world.serve_with(2).await;
    (served, world.raw().await, world.address("probe.add"))
}

pub async fn bytes_that_are_no_message(world: World) {
    let (served, raw, add) = setup(&world).await;
    let junk: [&[u8]; 9] = [
        b"",
        b"\0\xff\xfe",
        b"{",
        b"null",
        b"[]",
        b"{\"data\":{}}",
        b"{\"meta\":3,\"data\":{}}",
        b"\"x\"",
        b"{\"header\":{}}",
    ];
    for item in junk {
        raw.push(&add, item).await;
    }
    unharmed(&world, &served).await;
}

pub async fn a_body_of_the_wrong_type_is_an_invalid_argument(world: World) {
    let (served, raw, add) = setup(&world).await;
    for body in [
        r#"{"a":"1","b":2}"#,
        r#"[1,2]"#,
        "3",
        "null",
        "true",
        r#"{"a":1e99,"b":2}"#,
        r#"{"a":1.5,"b":2}"#,
    ] {
        // A list in the order of the arguments is what serde takes for an object too; it is no JSON Schema match.
        if body != "[1,2]" {
            refused(&raw.call(&add, body.as_bytes()).await, "invalid_argument");
        }
    }
    unharmed(&world, &served).await;
}

pub async fn missing_arguments_are_named(world: World) {
    let (served, raw, add) = setup(&world).await;
    let answer = raw.call(&add, br#"{"a":1}"#).await;
    refused(&answer, "invalid_argument");
    assert!(answer.message.contains("missing field `b`"), "{answer:?}");
    unharmed(&world, &served).await;
}

pub async fn unknown_fields_are_ignored(world: World) {
    let (_served, raw, add) = setup(&world).await;
    let answer = raw.call(&add, br#"{"z":[{}],"b":2,"a":1,"c":null}"#).await;
    assert_eq!((answer.error.as_deref(), &answer.data["c"]), (None, &3.into()));
}

pub async fn an_empty_body_is_an_invalid_argument(world: World) {
    let (served, raw, add) = setup(&world).await;
    if matches!(raw, Raw::Amqp { .. }) {
        // Only AMQP can carry a request with no bytes at all.
        refused(&raw.call(&add, b"").await, "invalid_argument");
    }
    refused(&raw.call(&add, b"{}").await, "invalid_argument");
    unharmed(&world, &served).await;
}

pub async fn deep_nesting_is_an_invalid_argument(world: World) {
    let (served, raw, add) = setup(&world).await;
    // Closed, so that the envelope around it is well-formed and the body itself must be refused.
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    refused(&raw.call(&add, deep.as_bytes()).await, "invalid_argument");
    let within = format!("{{\"a\":{deep},\"b\":1}}");
    refused(&raw.call(&add, within.as_bytes()).await, "invalid_argument");
    let unknown = format!("{{\"a\":1,\"b\":2,\"c\":{deep}}}");
    // An unknown field is skipped without recursion; whether a peer may send that deep is not the method's business.
    let answer = raw.call(&add, unknown.as_bytes()).await;
    let ran = u64::from(answer.error.is_none());
    raw.push(&add, "[".repeat(1_000_000).as_bytes()).await;
    raw.push(&add, format!("{{\"data\":{}", "[".repeat(1_000_000)).as_bytes())
        .await;
    assert_eq!(
        ProbeClient::new(&world.node().await).add(1, 2).await.unwrap(),
        Sum { c: 3 }
    );
    assert_eq!(served.seen.runs(), 1 + ran);
}

pub async fn a_body_over_the_servers_limit_is_refused(world: World) {
    let node = world.connect(world.builder().max_body(1000)).await;
    let served = serve_on(node, 2).await;
    let (raw, add) = (world.raw().await, world.address("probe.add"));
    let body = |size: usize| {
        let head = r#"{"a":1,"b":2,"x":""#;
        format!("{head}{}\"}}", "x".repeat(size - head.len() - 2))
    };
    for size in [999, 1000] {
        let answer = raw.call(&add, body(size).as_bytes()).await;
        assert_eq!(answer.error, None, "{size}: {answer:?}");
    }
    refused(&raw.call(&add, body(1001).as_bytes()).await, "resource_exhausted");
    assert_eq!(served.seen.runs(), 2);
    // Far over the limit an answer may be impossible, but the server goes on.
    raw.push(&add, "x".repeat(8 * 1024 * 1024).as_bytes()).await;
    assert_eq!(
        ProbeClient::new(&world.node().await).add(1, 2).await.unwrap(),
        Sum { c: 3 }
    );
}

pub async fn forged_reply_addresses_are_not_written_to(world: World) {
    let (served, raw, add) = setup(&world).await;
    let other_service = world.address("secret.queue");
    raw.make_queue(&other_service).await;
    let long = "x".repeat(10 * 1024);
    let forged = [
        other_service.as_str(),
        "",
        " ",
        "commlib:reply:../../../../../../../etc",
        "commlib:reply:short",
        "commlib:reply:aaaaaaaaaaaaaaaaaaaaaaa\u{0}",
        "commlib.reply.aaaaaaaaaaaaaaaaaaaaaaa*",
        "rpc-ABCDEFABCDEFABCDEFABCDEFABCDEFAB",
        "a\r\nb",
        "secret",
        "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.g2dk\u{e9}",
        "amq.rabbitmq.reply-to.a b",
        "commlib.reply.aaaaaaaaaaaaaaaaaaaaaaaaa",
        "commlib:reply:aaaaaaaaaaaaaaaaaaaaaaaa.b",
        "rpc-0123456789abcdef0123456789abcdef0",
        long.as_str(),
    ];
    for reply_to in forged {
        raw.request_to(&add, br#"{"a":1,"b":2}"#, reply_to, 10_000).await;
    }
    if !matches!(raw, Raw::Amqp { .. }) {
        // Bytes that are no text at all, where an address of a reply stands.
        let mut item = b"{\"data\":{\"a\":1,\"b\":2},\"meta\":{\"id\":\"i\",\"reply_to\":\"".to_vec();
        item.extend([0xff; 255]);
        item.extend(b"\"}}");
        raw.push(&add, &item).await;
    }
    unharmed(&world, &served).await;
    for reply_to in forged {
        if !reply_to.is_empty() && reply_to.len() < 255 {
            assert!(!raw.written(reply_to).await, "{reply_to:?} was written to");
        }
    }
}

pub async fn what_a_peer_calls_its_headers_changes_nothing(world: World) {
    let _served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    // Everything that the runtime derives has a name that a header may have too.
    let mut call = probe.echo("text".to_owned()).timeout(SOON);
    for name in [
        "timeout_ms",
        "timestamp",
        "id",
        "correlation_id",
        "reply_to",
        "address",
        "content_type",
        "error",
    ] {
        call = call.header(name, "1");
    }
    let seen = call.await.unwrap();
    assert_eq!(seen["address"], "probe.echo");
    assert_eq!(seen["reply_to"], "1");
    for name in ["commlib-timeout-ms", "commlib-error-code", "commlib-x"] {
        let error = probe.add(1, 2).header(name, "1").await.unwrap_err();
        assert_eq!(error.execution(), commlib::Execution::DidNotRun);
        assert!(error.to_string().contains("reserved"), "{error}");
    }
    // One that does not keep to that is not heard.
    let raw = world.raw().await;
    let answer = raw
        .call_with_header(&world.address("probe.echo"), br#"{"text":""}"#, "commlib-x")
        .await;
    assert_eq!(answer.error, None, "{answer:?}");
    assert!(
        answer.data["commlib-x"].is_null() && answer.data["other"] == "value",
        "{answer:?}"
    );
}

pub async fn errors_tell_a_peer_nothing_of_the_inside(world: World) {
    let (_served, raw, add) = setup(&world).await;
    for body in [r#"{"a":"canary","b":2}"#, r#"{"a":1}"#, "\"canary\""] {
        let answer = raw.call(&add, body.as_bytes()).await;
        refused(&answer, "invalid_argument");
        assert!(!answer.message.contains("canary"), "{answer:?}");
    }
    let answer = raw.call(&world.address("probe.panic"), b"{}").await;
    assert_eq!(
        (answer.error.as_deref(), &*answer.message, &*answer.execution),
        (Some("internal"), "the handler failed", "failed")
    );
}

pub async fn an_unknown_method_is_refused(world: World) {
    let served = world.serve().await;
    let client = RpcClient::new(&world.node().await);
    let call = client.call_untyped(Address::new("probe.nothing").unwrap(), &serde_json::json!({}));
    let error = call.timeout(SOON).await.unwrap_err();
    // Each method has its own address, so nobody serves an unknown one.
    assert!(error.is_no_responders(), "{error}");
    unharmed(&world, &served).await;
}

pub async fn unusable_topic_messages_do_not_stop_a_subscription(world: World) {
    let node = world.node().await;
    let mut readings = TopicSubscriber::new(&node)
        .pattern::<Reading>(Pattern::new("sensors.bumper").unwrap())
        .await
        .unwrap();
    let (raw, topic) = (world.raw().await, world.address("sensors.bumper"));
    let deep = "[".repeat(1_000_000);
    for item in ["", "{", "nonsense", "[]", "{\"seq\":-1}", deep.as_str()] {
        raw.publish(&topic, item.as_bytes()).await;
    }
    raw.publish(&topic, &vec![b'x'; 2 * 1024 * 1024]).await;
    raw.publish(&topic, b"{\"seq\":7}").await;
    loop {
        match tokio::time::timeout(SOON, readings.next())
            .await
            .expect("in time")
            .expect("not the end")
        {
            Ok(received) => break assert_eq!(received.message.seq, 7),
            Err(RecvError::Decode { .. } | RecvError::Lagged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
