//! Servers end in order: what was accepted is finished or left to another server.

use commlib_tests::soak::{BrokerKind, DrainRun};

async fn drain(broker: BrokerKind) {
    let run = DrainRun { broker };
    run.run(env!("CARGO_BIN_EXE_commlib-soak").into())
        .await
        .assert_good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_in_order_on_redis() {
    drain(BrokerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_in_order_on_rabbitmq() {
    drain(BrokerKind::Amqp).await;
}
