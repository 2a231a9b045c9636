//! Each role under an account that may do nothing else.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{Execution, NodeError, StatusCode};
use commlib_tests::{eventually, unique};
use tokio::time::{Instant, timeout};

use crate::world::{
    Broker, JobClient, JobServer, NewsPublisher, NewsSubscriber, Record, SOON, Worker, World, answered,
    ending, serve,
};

/// How soon a refusal comes at the latest, on a machine with much else to do.
const QUICK: Duration = Duration::from_secs(10);

/// A node of a role.
async fn node(world: &World, role: &str, namespace: &str) -> Node {
    let account = match &world.broker {
        Broker::Redis(broker) => broker.account(role, namespace, &[]).await,
        Broker::SharedRedis(broker) => broker.account(role, namespace, &[]).await,
        Broker::RabbitMq(broker) => broker.account(role, namespace).await,
        Broker::SharedRabbitMq(broker) => broker.account(role, namespace).await,
    };
    let url = account.url(&world.url());
    let node = Node::builder().namespace(namespace).connect(&url).await;
    node.unwrap_or_else(|error| panic!("{role}: {error}"))
}

fn refused<T>(what: &str, result: Result<T, NodeError>, begun: Instant) {
    let error = result.err().unwrap_or_else(|| panic!("{what} was not refused"));
    assert_eq!(
        error.code(),
        Some(StatusCode::PermissionDenied),
        "{what}: {error}"
    );
    assert_eq!(error.execution(), Execution::DidNotRun, "{what}: {error}");
    assert!(begun.elapsed() < QUICK, "{what}: {:?}", begun.elapsed());
}

pub async fn each_role_has_what_it_needs_and_no_more(world: World) {
    let namespace = unique("faults");
    let (caller, server) = (
        node(&world, "caller", &namespace).await,
        node(&world, "server", &namespace).await,
    );
    let (publisher, subscriber) = (
        node(&world, "publisher", &namespace).await,
        node(&world, "subscriber", &namespace).await,
    );

    // What they are for, cancellations included.
    let record = Record::new();
    let serving = serve(&server, &record, 4).await;
    let job = JobClient::new(&caller);
    answered(&job).await;
    job.note(1).await.expect("a one-way request");
    let wait = tokio::spawn(job.wait().timeout(SOON).into_future());
    eventually(SOON, || async { record.runs(0) == 1 && record.runs(1) == 1 }).await;
    wait.abort();
    let mut alone = NewsSubscriber::new(&subscriber)
        .item()
        .await
        .expect("subscribing");
    let mut group = NewsSubscriber::new(&subscriber)
        .item()
        .group("g")
        .await
        .expect("subscribing");
    NewsPublisher::new(&publisher).item(7).await.expect("publishing");
    for news in [&mut alone, &mut group] {
        let item = timeout(SOON, news.next())
            .await
            .expect("in time")
            .expect("not the end");
        assert_eq!(item.expect("a message").message, 7);
    }

    // What they are not for.
    let begun = Instant::now();
    let worker = || JobServer::new(Worker(Record::new()));
    refused("serving as a caller", caller.serve(worker()).await, begun);
    for (who, node) in [
        ("caller", &caller),
        ("server", &server),
        ("subscriber", &subscriber),
    ] {
        let begun = Instant::now();
        let published = NewsPublisher::new(node).item(8).await;
        refused(&format!("publishing as a {who}"), published, begun);
    }
    for (who, node) in [
        ("caller", &caller),
        ("server", &server),
        ("publisher", &publisher),
    ] {
        let begun = Instant::now();
        let subscribed = NewsSubscriber::new(node).item().await;
        refused(&format!("subscribing as a {who}"), subscribed, begun);
    }
    for (who, node) in [("publisher", &publisher), ("subscriber", &subscriber)] {
        // On RabbitMQ all queues are behind one exchange, which a subscriber needs for what it puts to rest.
        if who == "subscriber" && !world.broker.is_redis() {
            continue;
        }
        let begun = Instant::now();
        let called = JobClient::new(node).run(9).timeout(SOON).await;
        assert_eq!(
            ending(called),
            (StatusCode::PermissionDenied, Execution::DidNotRun),
            "{who}"
        );
        assert!(
            begun.elapsed() < QUICK,
            "calling as a {who}: {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(record.runs(9) + record.runs(8), 0);
    // None of it has cost the one who was refused what it may do.
    answered(&job).await;
    NewsPublisher::new(&publisher).item(10).await.expect("publishing");
    let item = timeout(SOON, alone.next())
        .await
        .expect("in time")
        .expect("not the end");
    assert_eq!(item.expect("a message").message, 10);
    // The handler whose caller is gone was told so.
    serving.shutdown_within(SOON / 3).await.expect("nothing is left");
    for node in [caller, server, publisher, subscriber] {
        node.shutdown(SOON).await.expect("closing");
    }
}
