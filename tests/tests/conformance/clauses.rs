//! Clauses of the transport contract that no other test proves by the way.

use std::time::Duration;

use commlib::Execution;
use commlib_tests::eventually;

use crate::contract::ProbeClient;
use crate::world::{SOON, World};

pub async fn c01_exactly_one_consumer_gets_a_message(world: World) {
    let servers = [
        world.serve_with(4).await,
        world.serve_with(4).await,
        world.serve_with(4).await,
    ];
    let probe = ProbeClient::new(&world.node().await);
    let mut sent = 0;
    // Which of three gets how many is the broker's choice, but none is left out for long.
    while servers.iter().any(|served| served.seen.runs() == 0) {
        assert!(sent < 3000, "a server got nothing of {sent} requests");
        for call in futures_util::future::join_all((0..100).map(|n| probe.add(n, 1).into_future())).await {
            call.unwrap();
        }
        sent += 100;
    }
    assert_eq!(servers.iter().map(|served| served.seen.runs()).sum::<u64>(), sent);
}

pub async fn c06_a_busy_server_leaves_requests_to_others(world: World) {
    let busy = world.serve_with(1).await;
    let probe = ProbeClient::new(&world.node().await);
    let blocked = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { busy.seen.waiting() == 1 }).await;
    let free = world.serve_with(1).await;
    for n in 0..20 {
        probe.add(n, n).timeout(SOON).await.unwrap();
    }
    assert_eq!((busy.seen.runs(), free.seen.runs()), (0, 20));
    busy.seen.open();
    assert!(blocked.await.unwrap().unwrap());
}

pub async fn c06_a_place_that_one_method_frees_serves_another(world: World) {
    let served = world.serve_with(1).await;
    let probe = ProbeClient::new(&world.node().await);
    let blocked = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { served.seen.waiting() == 1 }).await;
    let others: Vec<_> = (0..5)
        .map(|n| tokio::spawn(probe.add(n, n).into_future()))
        .collect();
    let more = tokio::spawn(probe.div(4, 2).into_future());
    // They wait at the broker or in the server, whichever; nothing says when they are there.
    tokio::time::sleep(Duration::from_millis(50)).await;
    served.seen.open();
    assert!(blocked.await.unwrap().unwrap());
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(more.await.unwrap().unwrap(), 2);
}

pub async fn c07_what_was_not_started_is_not_lost_at_shutdown(world: World) {
    let (first, second) = (world.serve_with(2).await, world.serve_with(2).await);
    let probe = ProbeClient::new(&world.node().await);
    let calls: Vec<_> = (0..400)
        .map(|n| tokio::spawn(probe.add(n, n).timeout(SOON).into_future()))
        .collect();
    eventually(SOON, || async { first.seen.runs() > 0 }).await;
    first.server.shutdown().await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(first.seen.runs() + second.seen.runs(), 400);
}

pub async fn c09_nobody_serves_is_known_at_once(world: World) {
    let probe = ProbeClient::new(&world.node().await);
    let error = probe
        .add(1, 2)
        .timeout(Duration::from_secs(60))
        .await
        .unwrap_err();
    assert!(error.is_no_responders(), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
    assert!(error.to_string().contains("probe.add"), "{error}");
    assert_eq!(
        probe.note(String::new()).await.unwrap_err().execution(),
        Execution::DidNotRun
    );
}

pub async fn c09_nobody_serves_is_known_soon_after_a_shutdown(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    probe.add(1, 2).await.unwrap();
    served.server.shutdown().await.unwrap();
    eventually(SOON, || async {
        let error = probe.add(1, 2).timeout(Duration::from_secs(2)).await.unwrap_err();
        if error.is_no_responders() {
            Ok(())
        } else {
            Err(error)
        }
    })
    .await;
}

pub async fn c10_a_stopped_server_takes_nothing(world: World) {
    let (stopped, other) = (world.serve().await, world.serve().await);
    let probe = ProbeClient::new(&world.node().await);
    stopped.server.shutdown().await.unwrap();
    for n in 0..50 {
        probe.add(n, n).await.unwrap();
    }
    assert_eq!((stopped.seen.runs(), other.seen.runs()), (0, 50));
}

pub async fn c15_an_expired_request_is_not_run(world: World) {
    let served = world.serve_with(1).await;
    let probe = ProbeClient::new(&world.node().await);
    let blocked = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { served.seen.waiting() == 1 }).await;
    let error = probe
        .add(1, 1)
        .timeout(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
    served.seen.open();
    assert!(blocked.await.unwrap().unwrap());
    // What waited longer than the expired one has been served: the expired one never will be.
    probe.wait(false).timeout(Duration::from_millis(100)).await.ok();
    probe.add(2, 2).await.unwrap();
    assert_eq!(served.seen.runs(), 1);
}
