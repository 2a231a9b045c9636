//! Users, passwords and permissions.

use std::time::Duration;

use commlib::prelude::*;
use commlib::{ConnectError, ConnectionState};
use commlib_tests::{FaultProxy, RabbitMq, eventually};
use tokio::time::{Instant, timeout};

use crate::world::{NewsPublisher, SOON, WorkClient, World};

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_never_shown() {
    let broker = RabbitMq::shared().await;
    for path in ["%2f", "no-such-host"] {
        let user = if path == "%2f" {
            "guest:canary"
        } else {
            "guest:guest"
        };
        let url = format!("amqp://{user}@127.0.0.1:{}/{path}", broker.port());
        let begun = Instant::now();
        let error = Node::connect(&url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        assert!(begun.elapsed() < SOON / 2);
    }
}

#[tokio::test]
async fn a_secure_connection_is_never_replaced_by_a_plain_one() {
    let broker = RabbitMq::shared().await;
    let url = format!("amqps://guest:canary@127.0.0.1:{}", broker.port());
    let error = timeout(SOON, Node::connect(&url)).await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_and_passwords_may_change_while_a_node_runs() {
    let broker = RabbitMq::start().await;
    broker.ctl(&["add_user", "limited", "canary"]).await;
    // Everything but topics.
    let permissions = [
        "set_permissions",
        "limited",
        ".*",
        "^(amq.default|commlib.*|.*work.*)$",
        ".*",
    ];
    broker.ctl(&permissions).await;
    let proxy = FaultProxy::start(broker.port()).await;
    let url = format!("amqp://limited:canary@127.0.0.1:{}", proxy.port());
    let world = World::new(url);
    let node = world.node().await;
    assert!(!format!("{node:?}").contains("canary"));
    let (_server, seen) = world.serve(&node, 4).await;
    let work = WorkClient::new(&node);
    let waiting = tokio::spawn(work.wait().timeout(SOON).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;

    // A channel that the broker closes for it takes no neighbours with it.
    for number in 0..3 {
        let error = NewsPublisher::new(&node).item(number).await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::PermissionDenied), "{error}");
    }
    assert_eq!(work.add(1, 2).await.unwrap(), 3);
    seen.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap(), 1);

    broker.ctl(&["change_password", "limited", "another"]).await;
    proxy.reset().await;
    let mut state = node.state();
    let refused = |state: &ConnectionState| matches!(state, ConnectionState::Connecting { reason, .. } if reason.contains("refused the login"));
    timeout(SOON, state.wait_for(refused)).await.unwrap().unwrap();
    assert!(!format!("{:?}", *node.state().borrow()).contains("canary"));
    broker.ctl(&["change_password", "limited", "canary"]).await;
    eventually(SOON, || async {
        work.add(1, 2).timeout(Duration::from_secs(1)).await
    })
    .await;
}
