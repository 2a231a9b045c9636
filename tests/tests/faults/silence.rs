//! Networks and brokers that say nothing: how soon that is noticed, and that no call outlasts its deadline.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{ConnectionState, Execution};
use commlib_tests::{Direction, Flow, eventually};
use tokio::time::{Instant, timeout};

use crate::world::{JobClient, NewsPublisher, NewsSubscriber, Record, SOON, World, answered, ending, serve};

/// For what a machine with much else to do takes longer.
const SLACK: Duration = Duration::from_secs(10);

async fn black_hole(world: &World, name: &str, direction: Option<Direction>) {
    let (proxy, url) = world.proxy().await;
    // Twice the heartbeat, whose default is 10 s on RabbitMQ.
    let (limit, url) = match direction {
        _ if world.broker.is_redis() => (Duration::from_secs(6), url),
        None => (Duration::from_secs(20), url),
        Some(_) => (Duration::from_secs(10), format!("{url}?heartbeat=5")),
    };
    let builder = || Node::builder().namespace(world.address(name));
    let node = builder().connect(&url).await.expect("the broker is there");
    let record = Record::new();
    // All kinds of connections, so that one that is not missed keeps something from coming back.
    let _server = serve(&node, &record, 4).await;
    let mut news = NewsSubscriber::new(&node).item().await.expect("subscribing");
    let other = builder()
        .connect(&world.url())
        .await
        .expect("the broker is there");
    let (job, outside) = (JobClient::new(&node), JobClient::new(&other));
    answered(&job).await;
    match direction {
        None => proxy.set(Flow::Swallow),
        Some(direction) => proxy.set_one(direction, Flow::Swallow),
    }
    let begun = Instant::now();
    let deadline = Duration::from_millis(700);
    let calls: Vec<_> = (1..=20)
        .map(|number| tokio::spawn(job.run(number).timeout(deadline).into_future()))
        .collect();
    for (number, call) in (1..).zip(calls) {
        let (code, execution) = ending(
            timeout(deadline + SLACK, call)
                .await
                .expect("in time")
                .expect("no panic"),
        );
        assert!(
            [StatusCode::DeadlineExceeded, StatusCode::Unavailable].contains(&code),
            "{code}"
        );
        assert!(
            execution == Execution::MayHaveRun || record.runs(number) == 0,
            "{number}"
        );
    }
    let mut state = node.state();
    let noticed = state.wait_for(|state| matches!(state, ConnectionState::Connecting { .. }));
    timeout(limit + SLACK - begun.elapsed(), noticed)
        .await
        .expect("the silence was not noticed in time")
        .expect("the node lives");
    // So have all others by then. From now on new connections get through, and what was on the old ones comes back.
    tokio::time::sleep_until(begun + limit).await;
    proxy.set(Flow::Pass);
    let gap = timeout(limit + SOON, news.next())
        .await
        .expect("a gap in time")
        .expect("not the end");
    assert_eq!(gap.expect_err("a notice"), RecvError::Gap);
    answered(&job).await;
    answered(&outside).await;
    let publisher = NewsPublisher::new(&node);
    eventually(SOON, || async { publisher.item(7).await }).await;
    let heard = timeout(SOON, news.next())
        .await
        .expect("in time")
        .expect("not the end");
    assert_eq!(heard.expect("a message").message, 7);
}

pub async fn a_black_hole_in_one_and_in_both_directions_is_noticed(world: World) {
    // Each direction has nodes, a service and a relay of its own, so they can wait together.
    tokio::join!(
        black_hole(&world, "both", None),
        black_hole(&world, "there", Some(Direction::ToBroker)),
        black_hole(&world, "back", Some(Direction::ToClient)),
    );
}

/// The network keeps what was sent and delivers it when its caller was told long ago.
pub async fn what_a_slow_network_delivers_late_was_never_told_as_not_run(world: World) {
    let (_node, _, record) = world.serve(16).await;
    let (proxy, url) = world.proxy().await;
    let node = world.builder().connect(&url).await.expect("the broker is there");
    let job = JobClient::new(&node);
    answered(&job).await;
    proxy.set_one(Direction::ToBroker, Flow::Hold);
    let limit = Duration::from_millis(500);
    let calls: Vec<_> = (1..=50)
        .map(|number| tokio::spawn(job.run(number).timeout(limit).into_future()))
        .collect();
    let mut told = Vec::new();
    for call in calls {
        told.push(ending(call.await.expect("no panic")).1);
    }
    let note = job
        .note(51)
        .timeout(limit)
        .await
        .expect_err("nobody confirms")
        .execution();
    told.push(note);
    proxy.set(Flow::Pass);
    answered(&job).await;
    answered(&JobClient::new(&world.node().await)).await;
    for (number, told) in (1..).zip(&told) {
        let runs = record.runs(number);
        assert!(runs <= 1, "{number} ran {runs} times");
        assert!(
            *told == Execution::MayHaveRun || runs == 0,
            "{number} ran and was told as {told}"
        );
    }
    assert!(told.contains(&Execution::MayHaveRun));
}
