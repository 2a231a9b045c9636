//! Brokers and connections that break.

use commlib_tests::{Direction, FaultProxy, Flow};

use super::*;

/// Calls until a reply comes.
async fn until_answered(client: &Arc<dyn Transport>, told: &mut UnboundedReceiver<Told>, to: &Address) {
    let end = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < end, "no reply within {LIMIT:?}");
        while told.try_recv().is_ok() {}
        if client.request(request(to, "again", "1")).is_ok()
            && let Ok(Some(Told::Reply(..))) = timeout(Duration::from_secs(1), told.recv()).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn all_roles_come_back_after_a_kill_and_a_restart() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let client = connect_to(&server).await;
    let service = connect_to(&server).await;
    let add = unique();
    let _consumer = serve_echo(&service, &add).await;
    let (_subscription, mut heard) = subscribe(&service, "a.*").await;
    let mut told = open_inbox(&client).await;
    until_answered(&client, &mut told, &add).await;
    for _ in 0..3 {
        server.kill().await;
        match next(&mut told).await {
            Told::Lost(error) => assert_eq!(error.execution, crate::error::Execution::MayHaveRun),
            other => panic!("{other:?}"),
        }
        let mut state = client.state();
        timeout(LIMIT, state.wait_for(|state| !state.is_connected()))
            .await
            .unwrap()
            .unwrap();
        let error = client.request(request(&add, "x", "1")).unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Disconnected);
        assert_eq!(error.execution, crate::error::Execution::DidNotRun);
        server.restart().await;
        until_answered(&client, &mut told, &add).await;
        assert_eq!(next(&mut heard).await, Heard::Gap);
        publish(&client, &address("a.b"), "1").await;
        assert_eq!(next(&mut heard).await, Heard::Message("a.b".into(), "1".into()));
    }
}

#[tokio::test]
async fn each_connection_comes_back_alone() {
    let server = RedisServer::start().await;
    let node = connect_to(&server).await;
    let add = unique();
    let _consumer = serve_echo(&node, &add).await;
    let (_subscription, mut heard) = subscribe(&node, "a.b").await;
    let mut told = open_inbox(&node).await;
    until_answered(&node, &mut told, &add).await;
    for role in ["writer", "inbox", "consumer", "subscriber"] {
        let old = client_of(&server, role).await;
        kill_client(&server, role).await;
        until(role, async || {
            let now = client_of(&server, role).await;
            now.is_some() && now != old
        })
        .await;
        until_answered(&node, &mut told, &add).await;
    }
    assert_eq!(next(&mut heard).await, Heard::Gap);
    publish(&node, &address("a.b"), "1").await;
    assert_eq!(next(&mut heard).await, Heard::Message("a.b".into(), "1".into()));
}

#[tokio::test]
async fn a_frozen_broker_is_noticed_and_says_that_it_may_have_run() {
    let server = RedisServer::start().await;
    let client = connect_to(&server).await;
    let service = connect_to(&server).await;
    let add = unique();
    let _consumer = serve_echo(&service, &add).await;
    let mut told = open_inbox(&client).await;
    until_answered(&client, &mut told, &add).await;
    server.freeze();
    let asked = Instant::now();
    client.request(request(&add, "frozen", "1")).unwrap();
    let publishing = client
        .publish(add.clone(), message("x", "1"), PublishOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        publishing.execution,
        crate::error::Execution::MayHaveRun,
        "{publishing}"
    );
    match next(&mut told).await {
        Told::Failed(id, error) => {
            assert_eq!(
                (id.as_str(), error.execution),
                ("frozen", crate::error::Execution::MayHaveRun)
            );
        }
        Told::Lost(error) => assert_eq!(error.execution, crate::error::Execution::MayHaveRun),
        other => panic!("{other:?}"),
    }
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    server.thaw();
    until_answered(&client, &mut told, &add).await;
}

#[tokio::test]
async fn an_idle_black_hole_is_noticed() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port()).await;
    let node = connect(&url(&server.url_at(proxy.port())), options())
        .await
        .unwrap();
    let (_subscription, mut heard) = subscribe(&node, "a.b").await;
    proxy.set_one(Direction::ToClient, Flow::Swallow);
    let mut state = node.state();
    timeout(LIMIT, state.wait_for(|state| !state.is_connected()))
        .await
        .expect("not noticed")
        .unwrap();
    proxy.set(Flow::Pass);
    assert_eq!(next(&mut heard).await, Heard::Gap);
    timeout(LIMIT, state.wait_for(ConnectionState::is_connected))
        .await
        .expect("not back")
        .unwrap();
}

/// A network that forgot a connection takes all that is written to it.
#[tokio::test]
async fn subscribing_on_does_not_hide_a_dead_connection() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port()).await;
    let node = connect(&url(&server.url_at(proxy.port())), options())
        .await
        .unwrap();
    let (_subscription, mut heard) = subscribe(&node, "a.b").await;
    for direction in [Direction::ToBroker, Direction::ToClient] {
        proxy.set_one(direction, Flow::Swallow);
        let end = Instant::now() + LIMIT;
        let mut tries = 0;
        while heard.try_recv() != Ok(Heard::Gap) {
            assert!(Instant::now() < end, "{direction:?}: not noticed");
            tries += 1;
            let (spec, _) = subscribe_spec(&format!("c.{tries}"));
            // Nobody waits for long: to give up is a command as well.
            let _ = timeout(Duration::from_millis(50), node.subscribe(spec)).await;
            if tries == 20 {
                // New connections get through from here on; what lost something stays dead.
                proxy.set(Flow::Pass);
            }
        }
    }
}

#[tokio::test]
async fn what_was_not_written_did_not_run() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port()).await;
    let node = connect(&url(&server.url_at(proxy.port())), options())
        .await
        .unwrap();
    let add = unique();
    // More than the buffers on the way hold, and nobody who reads.
    proxy.set_one(Direction::ToBroker, Flow::Hold);
    let body = format!("\"{}\"", "x".repeat(900_000));
    let mut sent = Vec::new();
    for index in 0..40 {
        let (node, request) = (Arc::clone(&node), request(&add, &index.to_string(), &body));
        sent.push(tokio::spawn(async move { node.send(request).await }));
    }
    let mut half_written = false;
    let mut executions = Vec::new();
    for sent in sent {
        let error = timeout(LIMIT, sent)
            .await
            .expect("it hangs")
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Disconnected, "{error}");
        half_written |=
            error.execution == crate::error::Execution::DidNotRun && error.message.contains("was lost");
        executions.push(error.execution);
    }
    assert!(half_written, "Redis does nothing of half a command");
    assert!(
        executions.contains(&crate::error::Execution::DidNotRun),
        "{executions:?}"
    );
    assert!(
        executions.contains(&crate::error::Execution::MayHaveRun),
        "{executions:?}"
    );
}

#[tokio::test]
async fn a_reply_waits_for_a_connection() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port()).await;
    let service = connect(&url(&server.url_at(proxy.port())), options())
        .await
        .unwrap();
    let client = connect_to(&server).await;
    let mut told = open_inbox(&client).await;
    let add = unique();
    let (_consumer, mut deliveries) = consume(&service, std::slice::from_ref(&add), 1).await;
    client.request(request(&add, "the-call", "1")).unwrap();
    let delivery = next(&mut deliveries).await;
    proxy.refuse().await;
    proxy.reset().await;
    let mut state = service.state();
    timeout(LIMIT, state.wait_for(|state| !state.is_connected()))
        .await
        .unwrap()
        .unwrap();
    delivery.responder.reply(message("x", "2"));
    proxy.accept().await;
    match next(&mut told).await {
        Told::Reply(id, reply) => assert_eq!((id.as_str(), reply.data.as_ref()), ("the-call", &b"2"[..])),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lazy_node_comes_up_with_its_broker() {
    let server = RedisServer::start().await;
    server.stop().await;
    let mut options = options();
    options.lazy = true;
    let node = connect(&url(&server.url()), options).await.unwrap();
    assert!(!node.state().borrow().is_connected());
    let mut state = node.state();
    server.restart().await;
    timeout(LIMIT, state.wait_for(ConnectionState::is_connected))
        .await
        .expect("not up")
        .unwrap();
}
