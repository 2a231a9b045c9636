//! What only RabbitMQ, or who operates it, can do to us.

use std::time::Duration;

use commlib::{ConnectionState, Execution, Node, ReplyRoute, StatusCode};
use commlib_tests::{RabbitMq, RabbitNode, eventually};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ExchangeDeleteOptions};
use tokio::time::{Instant, timeout};

use crate::load::{Load, Numbers};
use crate::raw::Raw;
use crate::world::{
    Broker, JobClient, NewsPublisher, NewsSubscriber, Record, SOON, World, answered, ending, serve,
};

const SHORT: Duration = Duration::from_secs(1);

/// The process ids of our connections at the broker.
async fn connections(broker: &RabbitNode, role: &str) -> Vec<String> {
    let rows = broker
        .list(&["list_connections", "pid", "client_properties"])
        .await;
    let named = format!(" {role}\"");
    let ours = rows
        .into_iter()
        .filter(|row| row.get(1).is_some_and(|properties| properties.contains(&named)));
    ours.map(|row| row[0].clone()).collect()
}

/// One broker for what its operator does, as each takes long to boot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_takes_away_comes_back_or_harms_no_neighbour() {
    let server = RabbitMq::start().await;
    let broker = (*server).clone();
    let world = World::on(Broker::RabbitMq(server));
    connections_and_queues_that_are_taken_away_come_back(&world, &broker).await;
    an_exchange_that_is_deleted_harms_no_neighbour(&world).await;
    permissions_that_are_revoked_are_told_and_come_back(&world, &broker).await;
}

async fn connections_and_queues_that_are_taken_away_come_back(world: &World, broker: &RabbitNode) {
    let (server, _, record) = world.serve(8).await;
    let direct = world.node().await;
    let queue = world.builder().reply_route(ReplyRoute::Queue);
    let queue = queue.connect(&world.url()).await.expect("the broker is there");
    for node in [&direct, &queue] {
        answered(&JobClient::new(node)).await;
    }
    let subscription = NewsSubscriber::new(&server).item().await.expect("subscribing");
    let numbers = Numbers::start(NewsPublisher::new(&direct), vec![subscription]);
    numbers.heard_by_all().await;
    let load = Load::start(&[direct.clone(), queue.clone()], 16, 1);
    load.succeeds(50).await;
    for role in ["publishing", "consuming"] {
        for pid in connections(broker, role).await {
            broker.ctl(&["close_connection", &pid, "as a test"]).await;
        }
        load.succeeds(50).await;
        numbers.heard_by_all().await;
    }
    // Exclusive queues only an operator can delete: the one of the subscription, and the one for replies.
    for prefix in ["commlib.sub.", "commlib.reply."] {
        let rows = broker.list(&["list_queues", "name"]).await;
        let names = rows
            .iter()
            .map(|row| row[0].as_str())
            .filter(|name| name.starts_with(prefix));
        let names: Vec<_> = names.collect();
        assert!(!names.is_empty(), "no queue {prefix}: {rows:?}");
        for name in names {
            // One that went meanwhile is as gone as it should be.
            let _ = broker.try_ctl(&["delete_queue", name]).await;
        }
        load.succeeds(50).await;
        numbers.heard_by_all().await;
    }
    answered(&JobClient::new(&queue)).await;
    numbers.check().await;
    load.check("close_connection, delete_queue", &record).await;
    server.shutdown(SOON).await.expect("nothing is left");
}

/// And an alarm in the end.
async fn permissions_that_are_revoked_are_told_and_come_back(world: &World, broker: &RabbitNode) {
    broker.ctl(&["add_user", "limited", "canary"]).await;
    let all = ["set_permissions", "limited", ".*", ".*", ".*"];
    broker.ctl(&all).await;
    let url = format!("amqp://limited:canary@127.0.0.1:{}/%2f", broker.port());
    let server = world.builder().connect(&url).await.expect("connecting");
    let client = world.builder().connect(&url).await.expect("connecting");
    let record = Record::new();
    let _server = serve(&server, &record, 4).await;
    let job = JobClient::new(&client);
    answered(&job).await;
    broker
        .ctl(&["set_permissions", "limited", "^$", "^$", "^$"])
        .await;
    for role in ["publishing", "consuming"] {
        for pid in connections(broker, role).await {
            broker.ctl(&["close_connection", &pid, "as a test"]).await;
        }
    }
    // Told soon, typed, and nothing runs.
    let error = eventually(SOON, || async {
        let error = job.run(1).timeout(SHORT).await.expect_err("it may not");
        assert!(record.runs(1) == 0, "{error}");
        if error.code() == Some(StatusCode::PermissionDenied) {
            Ok(error)
        } else {
            Err(error)
        }
    })
    .await;
    assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
    let begun = Instant::now();
    let error = NewsPublisher::new(&client).item(1).await.expect_err("it may not");
    assert_eq!(error.code(), Some(StatusCode::PermissionDenied), "{error}");
    assert!(begun.elapsed() < SOON / 3, "{:?}", begun.elapsed());
    broker.ctl(&all).await;
    answered(&job).await;

    // An alarm: whoever waits hears at once, and what the server answers under it comes when it is over.
    let held = tokio::spawn(job.hold(2).timeout(SOON).into_future());
    let other = world.node().await;
    let late = tokio::spawn(JobClient::new(&other).hold(3).timeout(SOON).into_future());
    eventually(SOON, || async { record.runs(2) + record.runs(3) == 2 }).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await;
    let begun = Instant::now();
    let error = job.run(4).timeout(SOON).await;
    let (code, execution) = ending(error);
    assert_eq!(code, StatusCode::ResourceExhausted);
    assert_eq!(
        execution,
        Execution::MayHaveRun,
        "it was on its way when the alarm was noticed"
    );
    assert!(begun.elapsed() < SOON / 3);
    assert!(matches!(
        *client.state().borrow(),
        ConnectionState::Blocked { .. }
    ));
    record.gate.add_permits(2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    for call in [held, late] {
        // The reply of the one that was told of the alarm has nobody any more.
        match timeout(SOON, call).await.expect("in time").expect("no panic") {
            Ok(number) => assert_eq!(record.runs(number), 1),
            Err(error) => assert_eq!(error.execution(), Execution::MayHaveRun, "{error}"),
        }
    }
    answered(&job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_takes_its_limit_and_not_one_more() {
    const LIMIT: i64 = 10_000;
    let world = World::shared_amqp().await;
    let (_node, _, record) = world.serve(1).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    let held = tokio::spawn(job.hold(1).timeout(SOON).into_future());
    eventually(SOON, || async { record.runs(1) == 1 }).await;
    let raw = Raw::new(&world).await;
    let queue = world.address("job.note");
    let Raw::Amqp { channel, .. } = &raw else {
        unreachable!("it is RabbitMQ")
    };
    let fill = async |until: i64| {
        while raw.waiting(&queue).await < until {
            let publish = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"x",
                BasicProperties::default(),
            );
            publish.await.expect("published");
        }
    };
    // The server may have fetched some of them; from then on those at the broker count.
    for _ in 0..LIMIT - 10 {
        let publish = channel.basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            b"x",
            BasicProperties::default(),
        );
        publish.await.expect("published");
    }
    fill(LIMIT - 2).await;
    for length in [LIMIT - 1, LIMIT] {
        job.note(3).await.expect("there is room");
        assert_eq!(raw.waiting(&queue).await, length);
    }
    for _ in 0..3 {
        let error = job.note(4).await.expect_err("it is full");
        assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
        assert_eq!(error.execution(), Execution::DidNotRun);
    }
    record.gate.add_permits(1);
    held.await.expect("no panic").expect("a reply");
    eventually(SOON, || async { raw.waiting(&queue).await == 0 }).await;
    job.note(5).await.expect("there is room again");
    eventually(SOON, || async { record.runs(5) == 1 }).await;
    assert_eq!(record.runs(4), 0);
}

/// A reply that can't be delivered closes the server's channel for such replies; nobody else's reply is lost.
async fn an_exchange_that_is_deleted_harms_no_neighbour(world: &World) {
    let (server, _, record) = world.serve(32).await;
    let direct = world.node().await;
    let Raw::Amqp { channel, .. } = &Raw::new(world).await else {
        unreachable!("it is RabbitMQ")
    };
    for round in 0..3_u64 {
        // Its replies go through the exchange, which it makes anew where there is none.
        let queue = world.builder().reply_route(ReplyRoute::Queue);
        let queue = queue.connect(&world.url()).await.expect("the broker is there");
        answered(&JobClient::new(&queue)).await;
        let (first, harmless) = (1000 * round, 1000 * round + 100);
        let hold = |node: &Node, number, limit| {
            tokio::spawn(JobClient::new(node).hold(number).timeout(limit).into_future())
        };
        let harmed: Vec<_> = (0..3).map(|n| hold(&queue, first + n, SHORT * 4)).collect();
        let neighbours: Vec<_> = (0..10).map(|n| hold(&direct, harmless + n, SOON)).collect();
        eventually(SOON, || async {
            let mut numbers = (first..first + 3).chain(harmless..harmless + 10);
            numbers.all(|number| record.runs(number) == 1)
        })
        .await;
        let delete = channel.exchange_delete("commlib.reply".into(), ExchangeDeleteOptions::default());
        delete.await.expect("deleting");
        record.gate.add_permits(13);
        for neighbour in neighbours {
            neighbour
                .await
                .expect("no panic")
                .expect("the reply of a neighbour");
        }
        for harmed in harmed {
            let (_, execution) = ending(harmed.await.expect("no panic"));
            assert_eq!(execution, Execution::MayHaveRun);
        }
    }
    server.shutdown(SOON).await.expect("nothing is left");
}
