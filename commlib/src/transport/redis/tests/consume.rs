//! Taking requests: permits, stops, and what must not stop a consumer.

use super::*;

async fn push(server: &RedisNode, to: &Address, item: &[u8]) {
    server
        .command(&[b"RPUSH".as_slice(), to.as_str().as_bytes(), item])
        .await;
}

fn item(id: &str, data: &str) -> Vec<u8> {
    native::encode(&message(id, data), None)
}

fn data(delivery: &Delivery) -> String {
    match &delivery.taken {
        Taken::Message(message) => String::from_utf8_lossy(&message.data).into_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn no_more_is_taken_than_there_are_permits() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    for index in 0..10 {
        push(&server, &add, &item("x", &index.to_string())).await;
    }
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 3).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(next(&mut deliveries).await);
    }
    // The others stay with the broker, where another consumer gets them.
    let length = async || server.command(&["LLEN", add.as_str()]).await.int();
    assert_eq!(length().await, 7);
    for delivery in taken {
        delivery.responder.finish();
    }
    for _ in 0..3 {
        std::mem::forget(next(&mut deliveries).await);
    }
    assert_eq!(length().await, 4);
    server.command(&["DEL", add.as_str()]).await;
}

#[tokio::test]
async fn a_request_that_is_given_back_comes_first_and_is_kept() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    push(&server, &add, &item("x", "1")).await;
    push(&server, &add, &item("x", "2")).await;
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 1).await;
    let first = next(&mut deliveries).await;
    assert_eq!(data(&first), "1");
    first.responder.give_back(Envelope::default());
    let again = next(&mut deliveries).await;
    assert_eq!(data(&again), "1");
    // Dropped without use it may have been started, and nothing in a list could tell the next server so.
    drop(again);
    let second = next(&mut deliveries).await;
    assert_eq!(data(&second), "2");
    second.responder.finish();
}

#[tokio::test]
async fn a_stop_is_prompt_and_loses_nothing() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    let mut taken = 0;
    let mut pushed = 0;
    let mut prompt = 0;
    for _ in 0..20 {
        let (consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 100).await;
        for _ in 0..5 {
            push(&server, &add, &item("x", "1")).await;
            pushed += 1;
        }
        let asked = Instant::now();
        consumer.stop().await;
        prompt += u32::from(asked.elapsed() < Duration::from_secs(1));
        while let Ok(delivery) = deliveries.try_recv() {
            taken += 1;
            delivery.responder.finish();
        }
        assert!(deliveries.is_closed());
    }
    // Far less than the time for which a pop blocks; a busy machine may miss it now and then.
    assert!(prompt >= 5, "{prompt} of 20");
    assert_eq!(
        taken + server.command(&["LLEN", add.as_str()]).await.int(),
        pushed
    );
    server.command(&["DEL", add.as_str()]).await;
}

#[tokio::test]
async fn an_idle_consumer_stops_at_once() {
    let server = RedisServer::start().await;
    let service = connect_to(&server).await;
    let mut soonest = LIMIT;
    // A busy machine may be late now and then.
    for _ in 0..5 {
        let (consumer, _deliveries) = consume(&service, &[unique()], 100).await;
        until("the pop blocks", async || {
            let clients = server.command(&["CLIENT", "LIST"]).await;
            let text = String::from_utf8_lossy(clients.bytes().unwrap_or_default()).into_owned();
            text.lines()
                .any(|line| line.contains("name=commlib:consumer:") && line.contains("flags=b"))
        })
        .await;
        let asked = Instant::now();
        consumer.stop().await;
        soonest = soonest.min(asked.elapsed());
        if soonest < Duration::from_secs(1) {
            return;
        }
    }
    panic!("{soonest:?}");
}

#[tokio::test]
async fn a_busy_queue_does_not_starve_its_neighbours() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let addresses = [unique(), unique(), unique()];
    for index in 0..300 {
        push(&server, &addresses[0], &item("x", &index.to_string())).await;
    }
    for address in &addresses[1..] {
        push(&server, address, &item("x", "\"rare\"")).await;
    }
    let (_consumer, mut deliveries) = consume(&service, &addresses, 4).await;
    let mut rare = 0;
    for _ in 0..30 {
        let delivery = next(&mut deliveries).await;
        rare += usize::from(delivery.address > 0 && data(&delivery) == "\"rare\"");
        delivery.responder.finish();
    }
    assert_eq!(rare, 2, "both neighbours are heard among the first 30");
    server.command(&["DEL", addresses[0].as_str()]).await;
}

#[tokio::test]
async fn a_key_of_another_type_leaves_the_others_alone() {
    let server = RedisServer::start().await;
    let service = connect_to(&server).await;
    let addresses = [unique(), unique()];
    server.command(&["SET", addresses[0].as_str(), "text"]).await;
    let (_consumer, mut deliveries) = consume(&service, &addresses, 10).await;
    for index in 0..10 {
        push(&server, &addresses[1], &item("x", &index.to_string())).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!((delivery.address, data(&delivery)), (1, index.to_string()));
        delivery.responder.finish();
    }
    // It is not asked about over and over.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stats = server.command(&["INFO", "commandstats"]).await;
    let stats = String::from_utf8_lossy(stats.bytes().unwrap_or_default()).into_owned();
    let pops = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_blmpop:calls="));
    let pops: u32 = pops.unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(pops < 50, "{pops} pops");
    // Once it is gone, the queue is served.
    server.command(&["DEL", addresses[0].as_str()]).await;
    push(&server, &addresses[0], &item("x", "\"back\"")).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.address, data(&delivery)), (0, "\"back\"".into()));
    delivery.responder.finish();
}

#[tokio::test]
async fn too_large_requests_are_answered_without_being_read() {
    let server = RedisServer::shared().await;
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let _consumer = serve_echo(&client, &add).await;
    // Over the limit of bodies, and over that of what is read at all.
    for size in [1024 * 1024 + 1, 3 * 1024 * 1024] {
        let body = format!("\"{}\"", "x".repeat(size - 2));
        client.request(request(&add, "large", &body)).unwrap();
        match next(&mut told).await {
            Told::Reply(id, reply) => {
                let told: usize = String::from_utf8_lossy(&reply.data).parse().unwrap();
                assert!(
                    id == "large" && (size..size + 1000).contains(&told),
                    "{id} {told}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // And so is the other dialect's, whose address comes first.
    let list = inbox::call_list();
    let body = format!("\"{}\"", "x".repeat(3 * 1024 * 1024));
    let large = commlib_py::encode_request(&message("x", &body), &list);
    push(&server, &add, &large).await;
    until("the answer is there", async || {
        server.command(&["LLEN", &list]).await.int() == 1
    })
    .await;
}

#[tokio::test]
async fn garbage_is_handed_up_and_forged_addresses_are_not_written_to() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    let victim = unique();
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 10).await;
    let deep = "[".repeat(1_000_000);
    for garbage in ["", "x", "null", "{}", "QueueInit", "\u{0}\u{1}", &deep] {
        push(&server, &add, garbage.as_bytes()).await;
        let delivery = next(&mut deliveries).await;
        assert!(
            matches!(delivery.taken, Taken::Malformed(_)),
            "{:?}",
            delivery.taken
        );
        assert!(!delivery.responder.wants_reply());
        delivery.responder.reply(Envelope::default());
    }
    let long = "x".repeat(10_000);
    for forged in [victim.as_str(), "", &long, "commlib:reply:short", "a\r\nb"] {
        push(&server, &add, &native::encode(&message("x", "1"), Some(forged))).await;
        let delivery = next(&mut deliveries).await;
        assert!(
            matches!(delivery.taken, Taken::Malformed(_)),
            "{:?}",
            delivery.taken
        );
        assert!(!delivery.responder.wants_reply(), "{forged}");
        delivery.responder.reply(message("x", "2"));
    }
    push(&server, &add, &item("x", "\"still here\"")).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(data(&delivery), "\"still here\"");
    delivery.responder.finish();
    assert_eq!(server.command(&["EXISTS", victim.as_str()]).await.int(), 0);
    let shown = format!("{service:?}");
    assert!(shown.contains("refused_replies: 5"), "{shown}");
}

#[tokio::test]
async fn a_user_who_may_not_serve_is_told() {
    let server = RedisServer::start().await;
    server
        .command(&[
            "ACL",
            "SETUSER",
            "limited",
            "on",
            ">pw",
            "~mine.*",
            "~commlib:*",
            "&*",
            "+@all",
        ])
        .await;
    let limited = server.url().replace("redis://", "redis://limited:pw@");
    let service = connect(&url(&limited), options()).await.unwrap();
    let (spec, _deliveries, _) = consume_spec(&[address("theirs.add")], 1);
    let error = service.consume(spec).await.err().unwrap();
    assert_eq!(error.kind, TransportErrorKind::Forbidden, "{error}");
}
