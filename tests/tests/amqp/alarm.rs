//! A broker that is out of memory blocks publishers, and nothing else stops.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{ConnectionState, Execution};
use commlib_tests::{RabbitMq, eventually};
use tokio::time::{Instant, timeout};

use crate::world::{NewsPublisher, SOON, WorkClient, World};

const NOTES: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_stops_publishing_only_and_ends() {
    let broker = RabbitMq::start().await;
    let world = World::new(broker.url());
    let (server_node, client, late) = (world.node().await, world.node().await, world.node().await);
    // With one permit each message needs the acknowledgement of the one before.
    let (server, seen) = world.serve(&server_node, 1).await;
    let work = WorkClient::new(&client);
    assert_eq!(work.add(1, 2).await.unwrap(), 3);
    for _ in 0..NOTES {
        // They wait for as long as the broker's tools take.
        work.note().timeout(6 * SOON).await.unwrap();
    }
    broker.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await;

    // The first publish under the alarm is the one that makes the broker say so.
    for node in [&client, &server_node] {
        let error = NewsPublisher::new(node).item(1).timeout(SOON).await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
        assert!(matches!(*node.state().borrow(), ConnectionState::Blocked { .. }));
    }
    let error = work.add(1, 2).timeout(SOON).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
    // A call that is itself the first publish of its connection.
    let begun = Instant::now();
    let error = WorkClient::new(&late).add(1, 2).timeout(SOON).await.unwrap_err();
    assert_eq!(error.execution(), Execution::MayHaveRun, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it waited for its deadline"
    );

    // Taking and acknowledging go on.
    seen.gate.add_permits(NOTES as usize);
    eventually(SOON, || async { seen.notes() == NOTES }).await;

    // So does closing, in good order on one connection and by force on the other.
    let begun = Instant::now();
    let _ = timeout(SOON, late.shutdown(Duration::from_secs(2)))
        .await
        .expect("closing ends");
    assert!(begun.elapsed() < SOON / 2);

    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    let mut state = client.state();
    timeout(SOON, state.wait_for(ConnectionState::is_connected))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(work.add(1, 2).timeout(SOON).await.unwrap(), 3);
    NewsPublisher::new(&client).item(2).await.unwrap();
    server.shutdown().await.unwrap();
}
