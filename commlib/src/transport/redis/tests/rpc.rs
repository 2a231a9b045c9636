//! Requests and replies: the keys that they leave, and what the broker can say about them.

use super::*;

async fn ask(client: &Arc<dyn Transport>, told: &mut UnboundedReceiver<Told>, to: &Address) -> Told {
    client.request(request(to, "the-call", "1")).unwrap();
    next(told).await
}

#[track_caller]
fn failed(told: Told) -> TransportError {
    match told {
        Told::Failed(id, error) if id == "the-call" => error,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn replied(told: Told) -> Envelope {
    match told {
        Told::Reply(id, reply) if id == "the-call" => *reply,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn close_leaves_no_key_and_no_connection() {
    let server = RedisServer::start().await;
    let client = connect_to(&server).await;
    let service = connect_to(&server).await;
    let add = unique();
    let consumer = serve_echo(&service, &add).await;
    let mut told = open_inbox(&client).await;
    let (_subscription, _heard) = subscribe(&client, "a.#").await;
    replied(ask(&client, &mut told, &add).await);
    consumer.stop().await;
    // A request that nobody takes has a time to live.
    assert_eq!(server.keys("*").await, Vec::<String>::new());
    client.close(LIMIT).await.unwrap();
    service.close(LIMIT).await.unwrap();
    assert_eq!(server.keys("*").await, Vec::<String>::new());
    until("all connections are closed", async || {
        let clients = server.command(&["CLIENT", "LIST"]).await;
        !String::from_utf8_lossy(clients.bytes().unwrap_or_default()).contains("name=commlib:")
    })
    .await;
    assert!(matches!(*client.state().borrow(), ConnectionState::Closed));
    let error = client.request(request(&add, "late", "1")).unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Closed);
}

#[tokio::test]
async fn a_waiting_request_dies_with_its_caller() {
    let server = RedisServer::shared().await;
    let client = connect_to(&server).await;
    let add = unique();
    let (spec, _deliveries, permits) = consume_spec(std::slice::from_ref(&add), 1);
    // No permit, so that the request stays in its list.
    let _none = permits.acquire_owned().await.unwrap();
    let _consumer = client.consume(spec).await.unwrap();
    let mut long = request(&add, "long", "1");
    long.time_to_live = Duration::from_secs(40);
    client.send(long).await.unwrap();
    client.send(request(&add, "short", "1")).await.unwrap();
    let left = server.command(&["PTTL", add.as_str()]).await.int();
    assert!((40_000..=45_000).contains(&left), "{left}");
    assert_eq!(server.command(&["LLEN", add.as_str()]).await.int(), 2);
}

#[tokio::test]
async fn a_reply_to_a_dead_caller_dies_soon() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    let _consumer = serve_echo(&service, &add).await;
    let list = format!("commlib:reply:{}", &options().node_id);
    let item = native::encode(&message("the-call", "1"), Some(&list));
    server
        .command(&[b"RPUSH".as_slice(), add.as_str().as_bytes(), &item])
        .await;
    until("the reply is there", async || {
        server.command(&["LLEN", &list]).await.int() == 1
    })
    .await;
    let left = server.command(&["PTTL", &list]).await.int();
    assert!((1..=30_000).contains(&left), "{left}");
}

#[tokio::test]
async fn nobody_is_known_to_serve_after_a_stop_and_after_a_crash() {
    let server = RedisServer::shared().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::NoResponders);
    assert_eq!(server.command(&["EXISTS", add.as_str()]).await.int(), 0);

    let service = connect_to(&server).await;
    let consumer = serve_echo(&service, &add).await;
    let other = serve_echo(&service, &add).await;
    consumer.stop().await;
    replied(ask(&client, &mut told, &add).await);
    other.stop().await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::NoResponders);

    // A crash takes nothing back. What is left of it runs out by the broker's clock.
    let presence = format!("commlib:presence:{add}");
    let _crashed = serve_echo(&service, &add).await;
    let until_ms = server
        .command(&["ZRANGE", &presence, "0", "-1", "WITHSCORES"])
        .await
        .strings();
    let time = server.command(&["TIME"]).await.strings();
    let now: i64 = time[0].parse::<i64>().unwrap() * 1000;
    let left = until_ms[1].parse::<i64>().unwrap() - now;
    assert!((5_000..=11_000).contains(&left), "{left}");
    let key = server.command(&["PTTL", &presence]).await.int();
    assert!((10_000..=15_000).contains(&key), "{key}");
    server
        .command(&["ZADD", &presence, &(now - 1).to_string(), &until_ms[0]])
        .await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::NoResponders);
    // A living server says again that it is there.
    until("the server is known again", async || {
        server
            .command(&["ZCOUNT", &presence, &now.to_string(), "+inf"])
            .await
            .int()
            == 1
    })
    .await;
    replied(ask(&client, &mut told, &add).await);
}

#[tokio::test]
async fn a_full_queue_takes_what_fits() {
    let server = RedisServer::shared().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let (spec, _deliveries, permits) = consume_spec(std::slice::from_ref(&add), 1);
    let _none = permits.acquire_owned().await.unwrap();
    let _consumer = client.consume(spec).await.unwrap();
    let mut fill = vec!["RPUSH".to_owned(), add.to_string()];
    fill.extend((0..QUEUE_LIMIT - 2).map(|_| "x".to_owned()));
    server.command(&fill).await;
    for index in 0..5 {
        client
            .request(request(&add, &format!("call-{index}"), "1"))
            .unwrap();
    }
    for index in 2..5 {
        match next(&mut told).await {
            Told::Failed(id, error) => {
                assert_eq!(id, format!("call-{index}"));
                assert_eq!(error.kind, TransportErrorKind::QueueFull);
                assert_eq!(error.execution, crate::error::Execution::DidNotRun);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.command(&["LLEN", add.as_str()]).await.int(), QUEUE_LIMIT);
    server.command(&["DEL", add.as_str()]).await;
}

#[tokio::test]
async fn a_request_that_came_after_its_server_left_is_taken_back() {
    let server = RedisServer::start().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let presence = format!("commlib:presence:{add}");
    // A server by hand: a presence, and somebody who pops and answers.
    let arrive = async || {
        let until = "99999999999999";
        server.command(&["ZADD", &presence, until, "by-hand"]).await;
    };
    let answer = async |item: &str| {
        let (request, _) = native::decode(&item.to_owned().into()).unwrap();
        let mut reply = message("x", "1");
        reply.meta.correlation_id = request.meta.id;
        let reply = native::encode(&reply, None);
        let list = request.meta.reply_to.unwrap();
        server
            .command(&[b"RPUSH".as_slice(), list.as_bytes(), &reply])
            .await;
    };
    let serve = async || {
        let popped = server.command(&["BLPOP", add.as_str(), "20"]).await.strings();
        answer(&popped[1]).await;
    };
    arrive().await;
    for _ in 0..3 {
        client.request(request(&add, "the-call", "1")).unwrap();
        serve().await;
        replied(next(&mut told).await);
    }
    // Gone, and known to have been there a moment ago.
    server.command(&["DEL", &presence]).await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::NoResponders, "{error}");
    assert_eq!(error.execution, crate::error::Execution::DidNotRun);
    assert_eq!(server.command(&["LLEN", add.as_str()]).await.int(), 0);
    // Gone, but not before it has taken one more.
    arrive().await;
    client.request(request(&add, "the-call", "1")).unwrap();
    serve().await;
    replied(next(&mut told).await);
    let mut taker = server.client().await;
    let pop = ["BLPOP", add.as_str(), "20"];
    let taken = taker.command(&pop);
    let leave_and_ask = async {
        until("the taker waits", async || {
            let clients = server.command(&["CLIENT", "LIST"]).await;
            let text = String::from_utf8_lossy(clients.bytes().unwrap_or_default()).into_owned();
            text.lines()
                .any(|line| line.contains("cmd=blpop") && line.contains("flags=b"))
        })
        .await;
        server.command(&["DEL", &presence]).await;
        client.request(request(&add, "the-call", "1")).unwrap();
    };
    let (popped, ()) = tokio::join!(taken, leave_and_ask);
    answer(&popped.strings()[1]).await;
    replied(next(&mut told).await);
}

#[tokio::test]
async fn what_the_broker_refuses_did_not_run() {
    let server = RedisServer::start().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let consumer = serve_echo(&client, &add).await;

    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::Blocked, "{error}");
    assert_eq!(error.execution, crate::error::Execution::DidNotRun);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    replied(ask(&client, &mut told, &add).await);

    // Scripts may be flushed at any time.
    server.command(&["SCRIPT", "FLUSH"]).await;
    for _ in 0..3 {
        replied(ask(&client, &mut told, &add).await);
    }

    server.command(&["ACL", "SETUSER", "default", "-rpush"]).await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::Forbidden, "{error}");
    server.command(&["ACL", "SETUSER", "default", "+@all"]).await;
    replied(ask(&client, &mut told, &add).await);

    consumer.stop().await;
    let presence = format!("commlib:presence:{add}");
    server.command(&["SET", &presence, "text"]).await;
    let error = failed(ask(&client, &mut told, &add).await);
    assert_eq!(error.kind, TransportErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn a_reply_list_of_another_type_stops_nothing() {
    let server = RedisServer::shared().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let _consumer = serve_echo(&client, &add).await;
    let list = format!("commlib:reply:{}", &options().node_id);
    server.command(&["SET", &list, "text", "PX", "60000"]).await;
    let item = native::encode(&message("forged", "1"), Some(&list));
    server
        .command(&[b"RPUSH".as_slice(), add.as_str().as_bytes(), &item])
        .await;
    replied(ask(&client, &mut told, &add).await);
    let kept = server.command(&["GET", &list]).await;
    assert_eq!(kept.bytes(), Some(&b"text"[..]));
}

#[tokio::test]
async fn a_reply_over_the_limit_ends_its_call() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 10).await;
    let limit = 10_000;
    let mut small = options();
    small.limits.body_in = limit;
    let client = connect(&url(&server.url()), small).await.unwrap();
    let mut told = open_inbox(&client).await;
    // Over the limit of bodies, and over that of what is read at all.
    for size in [limit + 1, 200_000] {
        client.request(request(&add, "the-call", "1")).unwrap();
        let body = format!("\"{}\"", "x".repeat(size - 2));
        next(&mut deliveries).await.responder.reply(message("x", &body));
        let error = failed(next(&mut told).await);
        assert_eq!(error.kind, TransportErrorKind::TooLarge, "{error}");
        assert_eq!(error.execution, crate::error::Execution::Failed, "{error}");
    }
    client.request(request(&add, "the-call", "1")).unwrap();
    next(&mut deliveries).await.responder.reply(message("x", "1"));
    replied(next(&mut told).await);
}

/// The answer of `TIME` of a broker whose clock is ahead.
fn time(ahead: Duration) -> resp::Value {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap() + ahead;
    let text = |number: u128| resp::Value::Bulk(number.to_string().into());
    resp::Value::Array(vec![text(now.as_secs().into()), text(now.subsec_micros().into())])
}

#[tokio::test]
async fn times_travel_by_the_clock_of_the_broker() {
    const HOUR: u64 = 3_600_000_000;
    let server = RedisServer::shared().await;
    let client = start(&url(&server.url()), options()).await.unwrap();
    let service = start(&url(&server.url()), options()).await.unwrap();
    let add = unique();
    let (consumer, mut deliveries) = {
        let (spec, deliveries, _) = consume_spec(std::slice::from_ref(&add), 1);
        (service.consume(spec).await.unwrap(), deliveries)
    };
    // As if the client's clock were an hour behind that of the broker, and the server's two.
    client
        .handle
        .clock
        .set(&time(Duration::from_secs(3600)), Duration::ZERO);
    service
        .handle
        .clock
        .set(&time(Duration::from_secs(7200)), Duration::ZERO);
    let sent = 1_700_000_000_000_000;
    let mut timed = request(&add, "the-call", "1");
    timed.message.meta.timestamp = Some(sent);
    client.send(timed).await.unwrap();
    let delivery = next(&mut deliveries).await;
    let Taken::Message(message) = &delivery.taken else {
        panic!("{:?}", delivery.taken)
    };
    let off = message.meta.timestamp.unwrap().abs_diff(sent - HOUR);
    assert!(off < 1_000_000, "{off} µs off");
    delivery.responder.finish();
    consumer.stop().await;
}
