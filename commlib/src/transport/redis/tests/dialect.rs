//! Calls to servers that run commlib-py, played here by raw commands.

use super::*;

async fn python_client(server: &RedisNode) -> Arc<dyn Transport> {
    connect(&url(&format!("{}?dialect=commlib-py", server.url())), {
        let mut options = options();
        options.dialect = Dialect::CommlibPy;
        options
    })
    .await
    .unwrap()
}

/// Takes one request as such a server does; its reply list and its data.
async fn take(server: &RedisNode, from: &Address) -> (String, serde_json::Value) {
    let popped = server.command(&["BLPOP", from.as_str(), "10"]).await.strings();
    let request: serde_json::Value = serde_json::from_str(&popped[1]).unwrap();
    let list = request["header"]["reply_to"].as_str().unwrap().to_owned();
    (list, request["data"].clone())
}

async fn answer(server: &RedisNode, list: &str, data: &str) {
    let reply = format!("{{\"header\":{{}},\"data\":{data}}}");
    server.command(&["RPUSH", list, &reply]).await;
}

#[tokio::test]
async fn many_calls_are_in_flight_and_each_gets_its_own_reply() {
    let server = RedisServer::shared().await;
    let client = python_client(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    assert!(!client.capabilities().no_responders);
    for index in 0..100 {
        client
            .request(request(
                &add,
                &format!("call-{index}"),
                &format!("{{\"a\":{index}}}"),
            ))
            .unwrap();
    }
    let mut taken = Vec::new();
    for _ in 0..100 {
        taken.push(take(&server, &add).await);
    }
    // In another order than they came.
    for (list, data) in taken.iter().rev() {
        answer(&server, list, &data["a"].to_string()).await;
    }
    let mut ids = Vec::new();
    for _ in 0..100 {
        match next(&mut told).await {
            Told::Reply(id, reply) => {
                assert_eq!(id, format!("call-{}", String::from_utf8_lossy(&reply.data)));
                ids.push(id);
            }
            other => panic!("{other:?}"),
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    for (list, _) in &taken {
        assert_eq!(server.command(&["EXISTS", list]).await.int(), 0);
    }
}

#[tokio::test]
async fn a_new_call_does_not_wait_for_the_pop_that_runs() {
    let server = RedisServer::shared().await;
    let client = python_client(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let asked = Instant::now();
    for index in 0..10 {
        client
            .request(request(&add, &format!("call-{index}"), "{}"))
            .unwrap();
        let (list, _) = take(&server, &add).await;
        answer(&server, &list, "1").await;
        assert!(matches!(next(&mut told).await, Told::Reply(..)));
    }
    // A pop blocks for two seconds: 20 s for ten of them.
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn more_calls_than_one_pop_waits_on_are_answered() {
    let server = RedisServer::shared().await;
    let client = python_client(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    for index in 0..2_500 {
        client
            .request(request(&add, &format!("call-{index}"), "{}"))
            .unwrap();
    }
    until("all are in the queue", async || {
        server.command(&["LLEN", add.as_str()]).await.int() == 2_500
    })
    .await;
    let taken = server.command(&["LPOP", add.as_str(), "2500"]).await.strings();
    let lists = taken.iter().map(|item| {
        let request: serde_json::Value = serde_json::from_str(item).unwrap();
        request["header"]["reply_to"].as_str().unwrap().to_owned()
    });
    let mut raw = server.client().await;
    for list in lists {
        raw.command(&["RPUSH", &list, "{\"header\":{},\"data\":1}"]).await;
    }
    for _ in 0..2_500 {
        assert!(matches!(next(&mut told).await, Told::Reply(..)));
    }
}

#[tokio::test]
async fn a_late_reply_dies_with_its_list() {
    let server = RedisServer::shared().await;
    let client = python_client(&server).await;
    let _told = open_inbox(&client).await;
    let add = unique();
    for round in 0..20 {
        let id = format!("call-{round}");
        client.request(request(&add, &id, "{}")).unwrap();
        let (list, _) = take(&server, &add).await;
        client.forget(&id);
        let mut left = 0;
        until("the list is marked", async || {
            left = server.command(&["PTTL", &list]).await.int();
            left > 0
        })
        .await;
        // The mark stays when the inbox had the list on its mind still.
        answer(&server, &list, "1").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let left = server.command(&["PTTL", &list]).await.int();
        assert!((1..=60_000).contains(&left) || left == -2, "{left}");
    }
}

#[tokio::test]
async fn a_one_way_request_names_a_list_that_dies() {
    let server = RedisServer::shared().await;
    let client = python_client(&server).await;
    let add = unique();
    client.send(request(&add, "x", "{\"a\":1}")).await.unwrap();
    let (list, data) = take(&server, &add).await;
    assert_eq!(data["a"], 1);
    answer(&server, &list, "{}").await;
    let left = server.command(&["PTTL", &list]).await.int();
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn requests_of_the_dialect_are_answered_in_it() {
    let server = RedisServer::shared().await;
    let service = connect_to(&server).await;
    let add = unique();
    let _consumer = serve_echo(&service, &add).await;
    let list = inbox::call_list();
    // As commlib-py writes it.
    let request = format!(
        "{{\"header\":{{\"reply_to\":\"{list}\",\"correlation_id\":null,\"timestamp\":1795358732086616918,\
         \"content_type\":\"json\",\"encoding\":\"utf8\",\"agent\":\"commlib\"}},\"data\":{{\"a\":1}}}}"
    );
    server.command(&["RPUSH", add.as_str(), &request]).await;
    let reply = server.command(&["BLPOP", &list, "10"]).await.strings();
    let reply: serde_json::Value = serde_json::from_str(&reply[1]).unwrap();
    assert_eq!(reply["data"]["a"], 1);
    assert_eq!(reply["header"]["agent"], "commlib");
}

#[tokio::test]
async fn requests_that_waited_too_long_for_a_server_are_dropped() {
    let server = RedisServer::shared().await;
    let add = unique();
    let python = async |data: &str, timestamp: u128| {
        let mut request = serde_json::json!({
            "header": {"reply_to": inbox::call_list(), "timestamp": null},
            "data": data,
        });
        request["header"]["timestamp"] = serde_json::from_str(&timestamp.to_string()).unwrap();
        server
            .command(&["RPUSH", add.as_str(), &request.to_string()])
            .await;
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let old = now - 90_000_000_000;
    python("stale", old).await;
    python("fresh", now).await;
    let service = connect_to(&server).await;
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 1).await;
    let mut data = async || {
        let delivery = next(&mut deliveries).await;
        let Taken::Message(message) = &delivery.taken else {
            panic!("{:?}", delivery.taken)
        };
        let data = String::from_utf8_lossy(&message.data).into_owned();
        delivery.responder.finish();
        data
    };
    assert_eq!(data().await, "\"fresh\"");
    // What comes while there is a server did not wait: the sender's clock is wrong.
    python("skewed", old).await;
    assert_eq!(data().await, "\"skewed\"");
}
