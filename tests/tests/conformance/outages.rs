//! A connection that breaks: calls end at once, everything comes back, gaps are told.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{ConnectError, Execution};
use commlib_tests::{Direction, FaultProxy, Flow, eventually};
use tokio::time::{Instant, timeout};

use crate::contract::{ProbeClient, ProbeServer, Prober, Reading, SensorsPublisher, SensorsSubscriber, Sum};
use crate::world::{SOON, World, serve_on};

/// Cuts the broker off and waits until the node has noticed on all of its connections: until then a call may be lost
/// in flight, which is another promise.
async fn cut_off(proxy: &FaultProxy, probe: &ProbeClient) {
    proxy.refuse().await;
    proxy.reset().await;
    eventually(SOON, || async {
        let error = probe
            .add(0, 0)
            .timeout(Duration::from_millis(50))
            .await
            .unwrap_err();
        if error.is_timeout() && error.execution() == Execution::DidNotRun {
            Ok(())
        } else {
            Err(error)
        }
    })
    .await;
}

pub async fn c11_a_cut_connection_ends_calls_in_flight_at_once(world: World) {
    let served = world.serve().await;
    let (proxy, url) = world.proxy().await;
    let probe = ProbeClient::new(&world.builder().connect(&url).await.unwrap());
    let calls: Vec<_> = (0..20)
        .map(|_| tokio::spawn(probe.wait(true).timeout(Duration::from_secs(60)).into_future()))
        .collect();
    eventually(SOON, || async { served.seen.waiting() == 20 }).await;
    let begun = Instant::now();
    proxy.reset().await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(
            (error.code(), error.execution()),
            (Some(StatusCode::Unavailable), Execution::MayHaveRun),
            "{error}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "the calls waited for their deadline"
    );
    served.seen.open();
}

pub async fn c12_servers_and_clients_come_back_after_a_cut(world: World) {
    let (server_proxy, server_url) = world.proxy().await;
    let served = serve_on(world.builder().connect(&server_url).await.unwrap(), 8).await;
    let (client_proxy, client_url) = world.proxy().await;
    let probe = ProbeClient::new(&world.builder().connect(&client_url).await.unwrap());
    for _ in 0..3 {
        eventually(SOON, || async {
            probe.add(1, 2).timeout(Duration::from_secs(1)).await
        })
        .await;
        server_proxy.reset().await;
        eventually(SOON, || async {
            probe.add(1, 2).timeout(Duration::from_secs(1)).await
        })
        .await;
        client_proxy.reset().await;
    }
    assert_eq!(
        eventually(SOON, || async { probe.add(1, 2).await }).await,
        Sum { c: 3 }
    );
    assert!(served.seen.runs() >= 4);
}

pub async fn c12_subscriptions_come_back_and_tell_of_the_gap(world: World) {
    let (proxy, url) = world.proxy().await;
    let node = world.builder().connect(&url).await.unwrap();
    let mut exact = SensorsSubscriber::new(&node).bumper().await.unwrap();
    let mut all = SensorsSubscriber::new(&node).sonar(Any).await.unwrap();
    let publisher = SensorsPublisher::new(&world.node().await);
    publisher.bumper(Reading { seq: 1 }).await.unwrap();
    assert_eq!(
        timeout(SOON, exact.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message
            .seq,
        1
    );
    proxy.reset().await;
    // The notice comes when the subscription is back, so what is published after it arrives.
    assert_eq!(
        timeout(SOON, exact.next()).await.unwrap().unwrap().unwrap_err(),
        RecvError::Gap
    );
    assert_eq!(
        timeout(SOON, all.next()).await.unwrap().unwrap().unwrap_err(),
        RecvError::Gap
    );
    publisher.bumper(Reading { seq: 2 }).await.unwrap();
    publisher
        .sonar(crate::contract::Side::Rear, Reading { seq: 3 })
        .await
        .unwrap();
    assert_eq!(
        timeout(SOON, exact.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message
            .seq,
        2
    );
    assert_eq!(
        timeout(SOON, all.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message
            .seq,
        3
    );
}

pub async fn a_call_made_while_the_broker_is_away_keeps_its_deadline(world: World) {
    let _served = world.serve().await;
    let (proxy, url) = world.proxy().await;
    let node = world.builder().connect(&url).await.unwrap();
    let probe = ProbeClient::new(&node);
    probe.add(1, 2).await.unwrap();
    cut_off(&proxy, &probe).await;
    let begun = Instant::now();
    let error = probe
        .add(1, 2)
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
    assert!(error.is_timeout(), "{error}");
    assert!(begun.elapsed() < SOON);
    let error = SensorsPublisher::new(&node)
        .bumper(Reading { seq: 1 })
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
}

pub async fn a_call_waits_for_a_connection_that_comes_in_time(world: World) {
    let _served = world.serve().await;
    let (proxy, url) = world.proxy().await;
    let node = world.builder().connect(&url).await.unwrap();
    let probe = ProbeClient::new(&node);
    probe.add(1, 2).await.unwrap();
    cut_off(&proxy, &probe).await;
    let call = tokio::spawn(probe.add(2, 2).timeout(Duration::from_secs(30)).into_future());
    tokio::task::yield_now().await;
    proxy.accept().await;
    assert_eq!(timeout(SOON, call).await.unwrap().unwrap().unwrap(), Sum { c: 4 });
}

pub async fn an_unreachable_broker_is_an_error_at_once(world: World) {
    let (proxy, url) = world.proxy().await;
    proxy.refuse().await;
    let error = timeout(SOON, world.builder().connect(&url))
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&proxy.port().to_string()), "{error}");
}

pub async fn a_lazy_node_connects_when_the_broker_comes(world: World) {
    let _served = world.serve().await;
    let (proxy, url) = world.proxy().await;
    proxy.refuse().await;
    let node = timeout(SOON, world.builder().lazy().connect(&url))
        .await
        .unwrap()
        .unwrap();
    assert!(!node.state().borrow().is_connected());
    let probe = ProbeClient::new(&node);
    let call = tokio::spawn(probe.add(1, 2).timeout(Duration::from_secs(30)).into_future());
    tokio::task::yield_now().await;
    proxy.accept().await;
    assert_eq!(timeout(SOON, call).await.unwrap().unwrap().unwrap(), Sum { c: 3 });
}

pub async fn a_black_hole_does_not_outlast_the_deadline(world: World) {
    let served = world.serve().await;
    let (proxy, url) = world.proxy().await;
    let probe = ProbeClient::new(&world.builder().connect(&url).await.unwrap());
    probe.add(1, 2).await.unwrap();
    for direction in [None, Some(Direction::ToClient)] {
        match direction {
            None => proxy.set(Flow::Swallow),
            Some(direction) => proxy.set_one(direction, Flow::Swallow),
        }
        let (begun, runs) = (Instant::now(), served.seen.runs());
        let error = timeout(
            SOON,
            probe.add(1, 2).timeout(Duration::from_millis(500)).into_future(),
        )
        .await;
        let error = error.expect("the call ended").unwrap_err();
        // On a busy machine the time may be over before the request is on its way.
        let told = error.execution();
        let did_not_run = told == Execution::DidNotRun && served.seen.runs() == runs;
        assert!(told == Execution::MayHaveRun || did_not_run, "{error}");
        assert!(begun.elapsed() < SOON);
        proxy.set(Flow::Pass);
        proxy.reset().await;
        eventually(SOON, || async {
            probe.add(1, 2).timeout(Duration::from_secs(1)).await
        })
        .await;
    }
}

pub async fn c13_whatever_is_begun_in_a_black_hole_ends(world: World) {
    let limit = Duration::from_secs(1);
    let (proxy, url) = world.proxy().await;
    let builder = world.builder().operation_timeout(limit).call_timeout(limit);
    let node = builder.connect(&url).await.unwrap();
    let (readings, sensors) = (SensorsSubscriber::new(&node), SensorsPublisher::new(&node));
    // The limit is short for a busy machine.
    let mut listening = eventually(SOON, || async { readings.bumper().await }).await;
    eventually(SOON, || async { sensors.bumper(Reading { seq: 1 }).await }).await;
    proxy.set(Flow::Swallow);
    let probe = ProbeClient::new(&node);
    let all = async {
        let letters = node.dead_letters("clerks");
        let (serving, listening_too, published, noted, called, letters) = tokio::join!(
            node.serve(ProbeServer::new(Prober::default())).into_future(),
            readings.bumper().into_future(),
            sensors.bumper(Reading { seq: 2 }).into_future(),
            probe.note("gone".into()).into_future(),
            probe.add(1, 2).into_future(),
            letters.list(10),
        );
        assert!(called.is_err() && letters.is_err());
        // What could be begun or sent all the same can be let go of, too.
        drop((listening_too, published, noted));
        listening.stop().await;
        if let Ok(server) = serving {
            let _ = server.shutdown_within(limit).await;
        }
        let _ = node.shutdown(limit).await;
    };
    timeout(2 * SOON, all).await.expect("it waits without a limit");
}
