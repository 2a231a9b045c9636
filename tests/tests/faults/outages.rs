//! Brokers that die, stop and freeze while calls and messages are under way.

use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{ConnectionState, Execution, Pattern};
use commlib_tests::eventually;
use tokio::time::timeout;

use crate::load::{Load, Numbers};
use crate::raw::Raw;
use crate::world::{
    JobClient, NewsHandler, NewsPublisher, NewsSubscriber, Record, SOON, Worker, World, answered, ending,
    serve,
};

/// How the broker is hurt.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Stop,
    Freeze,
}

pub async fn calls_and_topics_survive_a_broker_that_dies_stops_and_freezes(world: World) {
    requests_that_wait_are_not_run_twice(&world).await;
    let (_server, _, record) = world.serve(16).await;
    let _second = {
        let node = world.node().await;
        serve(&node, &record, 16).await;
        node
    };
    let callers = [world.node().await, world.node().await];
    let listener = world.node().await;
    let pattern = Pattern::new("news.*").expect("a pattern");
    let numbers = Numbers::start(
        NewsPublisher::new(&world.node().await),
        vec![
            NewsSubscriber::new(&listener).item().await.expect("subscribing"),
            TopicSubscriber::new(&listener)
                .pattern(pattern)
                .await
                .expect("subscribing"),
        ],
    );
    numbers.heard_by_all().await;
    for (round, fault) in (1..).zip([Fault::Kill, Fault::Stop, Fault::Freeze]) {
        let what = format!("{fault:?}");
        let load = Load::start(&callers, 32, round * 10_000_000);
        load.succeeds(200).await;
        match fault {
            Fault::Kill => world.broker.kill().await,
            Fault::Stop => world.broker.stop().await,
            Fault::Freeze => world.broker.freeze(),
        }
        match fault {
            Fault::Kill | Fault::Stop => world.broker.restart().await,
            // Longer than a call may take, so that what was sent is carried out for nobody.
            Fault::Freeze => {
                tokio::time::sleep(Duration::from_secs(4)).await;
                world.broker.thaw();
            }
        }
        load.succeeds(200).await;
        numbers.heard_by_all().await;
        // What waited at the broker comes before this.
        for caller in &callers {
            answered(&JobClient::new(caller)).await;
        }
        let failed = load.check(&what, &record).await;
        println!("{what}: {failed} calls failed of those that ran into it");
    }
    numbers.check().await;
}

pub async fn a_lazy_node_serves_and_hears_when_the_broker_comes(world: World) {
    let (proxy, url) = world.proxy().await;
    proxy.refuse().await;
    let node = world.builder().lazy().connect(&url).await.expect("lazy");
    let record = Record::new();
    // None of these waits for the broker.
    let (_job, mut item, _handler) = timeout(SOON / 10, async {
        (
            serve(&node, &record, 4).await,
            NewsSubscriber::new(&node).item().await.expect("subscribing"),
            node.serve(NewsHandler::new(Worker(Arc::clone(&record))))
                .await
                .expect("serving"),
        )
    })
    .await
    .expect("a lazy node does not wait for its broker");
    let error = JobClient::new(&node)
        .run(1)
        .timeout(Duration::from_millis(300))
        .await;
    assert_eq!(ending(error).1, Execution::DidNotRun);
    proxy.accept().await;
    let other = world.node().await;
    let job = JobClient::new(&other);
    answered(&job).await;
    assert_eq!(JobClient::new(&node).run(2).await.expect("a reply"), 2);
    let publisher = NewsPublisher::new(&other);
    eventually(SOON, || async {
        publisher.item(7).await.expect("publishing");
        record.runs(7) > 0
    })
    .await;
    loop {
        match timeout(SOON, item.next())
            .await
            .expect("in time")
            .expect("not the end")
        {
            Ok(received) => break assert_eq!(received.message, 7),
            Err(RecvError::Gap) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// One kill of the broker with 1,000 requests in its queue.
async fn requests_that_wait_are_not_run_twice(world: &World) {
    let (server, _, record) = world.serve(1).await;
    let caller = world.node().await;
    let job = JobClient::new(&caller);
    // One holds the only place, the others wait behind it.
    let calls: Vec<_> = (1..=1000)
        .map(|number| tokio::spawn(job.hold(number).timeout(2 * SOON).into_future()))
        .collect();
    eventually(SOON, || async { record.numbers() == 1 }).await;
    let raw = Raw::new(world).await;
    let queue = world.address("job.hold");
    eventually(SOON, || async { raw.waiting(&queue).await >= 990 }).await;
    world.broker.kill().await;
    for call in calls {
        let (code, execution) = ending(timeout(SOON / 2, call).await.expect("at once").expect("no panic"));
        assert_eq!(
            (code, execution),
            (StatusCode::Unavailable, Execution::MayHaveRun)
        );
    }
    world.broker.restart().await;
    record.gate.add_permits(2000);
    answered(&job).await;
    // Those that the broker kept have all been taken.
    eventually(SOON, || async {
        match Raw::new(world).await.waiting(&queue).await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    for number in 1..=1000 {
        assert!(
            record.runs(number) <= 1,
            "{number} ran {} times",
            record.runs(number)
        );
    }
    let state = caller.state();
    assert!(matches!(*state.borrow(), ConnectionState::Connected { .. }));
    server.shutdown(SOON).await.expect("nothing is left");
}
