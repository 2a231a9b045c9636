//! Peers on RabbitMQ.

use commlib_tests::RabbitMq;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};

use crate::*;

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

fn amqp(name: &str) -> Value {
    vector("amqp.json", "vectors", name)["wire"].clone()
}

/// Properties and headers in the notation of the vectors, for lapin.
fn properties(wire: &Value) -> BasicProperties {
    let mut out = BasicProperties::default();
    for (name, value) in wire["properties"].as_object().expect("properties") {
        let text = || value.as_str().unwrap_or_default().into();
        out = match name.as_str() {
            "content_type" => out.with_content_type(text()),
            "content_encoding" => out.with_content_encoding(text()),
            "delivery_mode" => out.with_delivery_mode(1),
            "type" => out.with_type(text()),
            "message_id" => out.with_message_id(text()),
            "correlation_id" => out.with_correlation_id(text()),
            "reply_to" => out.with_reply_to(text()),
            "expiration" => out.with_expiration(text()),
            "timestamp" => out.with_timestamp(value.as_u64().expect("a number")),
            other => panic!("no property {other}"),
        };
    }
    let mut table = FieldTable::default();
    for (name, value) in wire["headers"].as_object().expect("headers") {
        let value = match value {
            Value::String(text) => AMQPValue::LongString(text.as_str().into()),
            number => AMQPValue::LongLongInt(number.as_i64().expect("an integer")),
        };
        table.insert(name.as_str().into(), value);
    }
    if table.inner().is_empty() {
        out
    } else {
        out.with_headers(table)
    }
}

/// The notation of the vectors, from lapin.
fn notation(delivery: &Delivery) -> Value {
    let from = &delivery.properties;
    let mut properties = serde_json::Map::new();
    for (name, value) in [
        ("content_type", from.content_type()),
        ("content_encoding", from.content_encoding()),
        ("type", from.kind()),
        ("message_id", from.message_id()),
        ("correlation_id", from.correlation_id()),
        ("reply_to", from.reply_to()),
        ("expiration", from.expiration()),
    ] {
        if let Some(value) = value {
            properties.insert(name.into(), value.as_str().into());
        }
    }
    if let Some(timestamp) = from.timestamp() {
        properties.insert("timestamp".into(), (*timestamp).into());
    }
    if let Some(mode) = from.delivery_mode() {
        properties.insert("delivery_mode".into(), (*mode).into());
    }
    let mut headers = serde_json::Map::new();
    for (name, value) in from.headers().iter().flat_map(FieldTable::inner) {
        let value = match value {
            AMQPValue::LongString(text) => text.to_string().into(),
            AMQPValue::LongLongInt(number) => (*number).into(),
            other => panic!("a header {name} of another type: {other:?}"),
        };
        headers.insert(name.to_string(), value);
    }
    let body = String::from_utf8_lossy(&delivery.data).into_owned();
    json!({"properties": properties, "headers": headers, "body": body})
}

async fn next(consumer: &mut Consumer) -> Value {
    let next = tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .expect("a message in time");
    notation(&next.expect("a consumer that goes on").expect("a message"))
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer")
}

async fn send(channel: &Channel, exchange: &str, key: &str, wire: &Value) {
    let body = wire["body"].as_str().expect("a body").as_bytes();
    channel
        .basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties(wire),
        )
        .await
        .expect("a published message");
}

/// Sent just now.
fn stamp(wire: &mut Value) {
    wire["properties"]["timestamp"] = now_us().into();
    if let Some(timestamp) = wire["headers"].get_mut("commlib-timestamp-us") {
        *timestamp = now_us().into();
    }
}

fn is_like(message: &Value, wanted: &Value, what: &str) {
    assert_eq!(
        names(&message["properties"]),
        names(&wanted["properties"]),
        "{what}"
    );
    for property in ["content_type", "content_encoding", "type", "delivery_mode"] {
        assert_eq!(
            message["properties"][property], wanted["properties"][property],
            "{what}: {property}"
        );
    }
    if !wanted["properties"]["message_id"].is_null() {
        is_message_id(&message["properties"]["message_id"]);
    }
    if !wanted["properties"]["timestamp"].is_null() {
        is_about_now(&message["properties"]["timestamp"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_by_hand_calls_our_server() {
    let broker = RabbitMq::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let _server = node
        .serve(CalculatorServer::new(Calc::default()))
        .await
        .expect("a server");
    let (_connection, channel) = channel(&broker.url()).await;
    let mut replies = consume(&channel, "amq.rabbitmq.reply-to").await;
    for (form, method, body, expected) in [
        ("request", "add", r#"{"a":1,"b":2}"#, "reply"),
        ("request", "div", r#"{"a":1,"b":0}"#, "application error"),
        ("request with headers", "add", r#"{"a":1}"#, "status error"),
        ("request that says all", "add", r#"{"a":1,"b":2}"#, "reply"),
    ] {
        let mut request = amqp(form);
        request["body"] = body.into();
        stamp(&mut request);
        send(
            &channel,
            "",
            &format!("{namespace}.calculator.{method}"),
            &request,
        )
        .await;
        let (reply, wanted) = (next(&mut replies).await, amqp(expected));
        is_like(&reply, &wanted, expected);
        assert_eq!(
            reply["properties"]["correlation_id"],
            request["properties"]["correlation_id"]
        );
        assert_eq!(names(&reply["headers"]), names(&wanted["headers"]), "{expected}");
        for header in ["commlib-error-code", "commlib-error-execution"] {
            assert_eq!(reply["headers"][header], wanted["headers"][header], "{expected}");
        }
        let body = |message: &Value| parse(message["body"].as_str().expect("text").as_bytes());
        assert_eq!(body(&reply), body(&wanted), "{expected}");
    }
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_a_server_by_hand() {
    let broker = RabbitMq::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let absent = CalculatorClient::new(&node)
        .add(1, 2)
        .await
        .expect_err("nobody serves it");
    assert!(absent.is_no_responders(), "{absent}");
    let div = format!("{namespace}.calculator.div");

    let (_connection, channel) = channel(&broker.url()).await;
    let options = QueueDeclareOptions {
        durable: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(60_000));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(10_000));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    channel
        .queue_declare(div.as_str().into(), options, arguments)
        .await
        .expect("a queue");
    let mut requests = consume(&channel, div.as_str()).await;
    let call = tokio::spawn({
        let client = CalculatorClient::new(&node);
        async move { client.div(1, 0).header("tenant", "x").timeout(PATIENCE).await }
    });
    let (request, wanted) = (next(&mut requests).await, amqp("request with headers"));
    is_like(&request, &wanted, "request with headers");
    is_message_id(&request["properties"]["correlation_id"]);
    assert_eq!(request["body"], r#"{"a":1,"b":0}"#);
    let timeout = request["properties"]["expiration"].as_str();
    let timeout: u64 = timeout
        .and_then(|text| text.parse().ok())
        .expect("the time that is left");
    assert!((15_000..=20_000).contains(&timeout), "{timeout}");
    assert_eq!(request["headers"]["tenant"], "x");
    let mut reply = amqp("application error");
    reply["properties"]["correlation_id"] = request["properties"]["correlation_id"].clone();
    send(
        &channel,
        "",
        request["properties"]["reply_to"]
            .as_str()
            .expect("a reply address"),
        &reply,
    )
    .await;
    match call.await.expect("the call's task") {
        Err(CallError::App(DivError::ByZero)) => {}
        other => panic!("{other:?}"),
    }
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics() {
    let broker = RabbitMq::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let key = format!("{namespace}.sensors.sonar.front");
    let mut subscription = SensorsSubscriber::new(&node)
        .sonar(Any)
        .await
        .expect("a subscription");
    let (_connection, channel) = channel(&broker.url()).await;
    let native = amqp("topic message with headers");
    let bare = json!({"properties": {}, "headers": {}, "body": r#"{"range": 1.5, "seq": 0}"#});
    for message in [native, bare] {
        send(&channel, "amq.topic", &key, &message).await;
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

    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await
        .expect("a queue");
    let (name, binding) = (queue.name().as_str().to_owned(), QueueBindOptions::default());
    let bound = channel.queue_bind(
        name.as_str().into(),
        "amq.topic".into(),
        key.into(),
        binding,
        FieldTable::default(),
    );
    bound.await.expect("a binding");
    let mut messages = consume(&channel, &name).await;
    let publisher = SensorsPublisher::new(&node);
    let sent = publisher.sonar("front".into(), Reading { range: 1.5, seq: 7 });
    sent.header("tenant", "x").await.expect("a published reading");
    let message = next(&mut messages).await;
    is_like(&message, &amqp("topic message with headers"), "topic message");
    assert_eq!(message["headers"]["tenant"], "x");
    assert_eq!(message["body"], r#"{"range":1.5,"seq":7}"#);
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_in_the_form_of_commlib_py() {
    let broker = RabbitMq::shared().await;
    let (node, namespace) = node(&broker.url()).await;
    let calc = Calc::default();
    let _server = node
        .serve(CalculatorServer::new(calc.clone()))
        .await
        .expect("a server");
    let add = format!("{namespace}.calculator.add");
    let (_connection, channel) = channel(&broker.url()).await;
    let mut replies = consume(&channel, "amq.rabbitmq.reply-to").await;
    // As its clients send them: the address in the body means nothing, and there is no correlation id.
    let request = |reply_to: &str, body: &str| {
        let properties = json!({"content_type": "application/json", "content_encoding": "utf8",
            "timestamp": 1_795_358_679_842_305_903_u64, "reply_to": reply_to});
        json!({"properties": properties, "headers": {}, "body": body})
    };
    let direct = "amq.rabbitmq.reply-to";
    for bad in bad_requests_of_commlib_py(direct) {
        send(&channel, "", &add, &request(direct, &bad)).await;
        let reply = next(&mut replies).await;
        is_refused(&parse(reply["body"].as_str().expect("text").as_bytes()));
        assert!(reply["properties"]["type"].is_null(), "{reply}");
    }
    // A queue that is no reply queue.
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await
        .expect("a queue");
    let victim = queue.name().as_str().to_owned();
    let mut written = consume(&channel, &victim).await;
    let body = json!({"header": {"reply_to": victim}, "data": {"a": 1, "b": 2}}).to_string();
    send(&channel, "", &add, &request(&victim, &body)).await;
    send(&channel, "", &add, &request(direct, &body)).await;
    let reply = next(&mut replies).await;
    let reply = parse(reply["body"].as_str().expect("text").as_bytes());
    assert_eq!(reply["data"], json!({"c": 3}), "the server goes on");
    assert_eq!(calc.runs(), 1, "only the good one ran");
    // What the server writes there would be before what is sent now.
    send(&channel, "", &victim, &request(direct, "last")).await;
    assert_eq!(
        next(&mut written).await["body"],
        "last",
        "the server wrote to a queue that is no reply queue"
    );
    node.shutdown(PATIENCE).await.expect("a clean shutdown");
}
