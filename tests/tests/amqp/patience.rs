//! A broker that is slow to let its clients back in is waited for as long as it answers.

use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::{FaultProxy, Flow, RabbitMq, eventually};

use crate::world::SOON;

#[commlib::topic(prefix = "patience")]
trait Patience {
    async fn word(&self, number: u64);
}

#[tokio::test]
async fn a_broker_that_is_slow_but_answers_gets_its_clients_back() {
    let rabbit = RabbitMq::shared().await;
    let proxy = FaultProxy::start(rabbit.port()).await;
    let limit = Duration::from_secs(1);
    let url = rabbit.url_at(proxy.port());
    let node = Node::builder().connect_timeout(limit).connect(&url).await;
    let node = node.expect("the broker is there");
    let publisher = PatiencePublisher::new(&node);
    publisher.word(1).await.expect("published");
    let before = proxy.accepted();

    // Each of its answers comes within the limit, all that it takes to log in do not.
    proxy.set(Flow::Delay(limit * 2 / 5));
    proxy.reset().await;
    eventually(SOON, || publisher.word(2).into_future()).await;
    // The first attempt was let in.
    assert_eq!(proxy.accepted() - before, 1);

    // The first connection of a node has the limit for all of it.
    let refused = Node::builder().connect_timeout(limit).connect(&url).await;
    assert!(
        matches!(refused, Err(commlib::ConnectError::Timeout { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_broker_that_is_silent_is_given_up() {
    let rabbit = RabbitMq::shared().await;
    let proxy = FaultProxy::start(rabbit.port()).await;
    // Six times that is more than the test waits.
    let limit = SOON / 5;
    let url = rabbit.url_at(proxy.port());
    let node = Node::builder().connect_timeout(limit).connect(&url).await;
    let node = node.expect("the broker is there");
    let before = proxy.accepted();
    proxy.set(Flow::Swallow);
    proxy.reset().await;
    eventually(SOON, || async { proxy.accepted() - before >= 2 }).await;
    drop(node);
}
