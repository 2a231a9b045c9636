//! Nothing is left of calls that are dropped, time out, or whose client is killed.

use commlib_tests::soak::{BrokerKind, LeakRun};

async fn leaks(broker: BrokerKind) {
    let run = LeakRun {
        calls: 5_000,
        killed: 8,
        patient: false,
        ..LeakRun::full(broker)
    };
    run.run(env!("CARGO_BIN_EXE_commlib-soak").into())
        .await
        .assert_good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_redis() {
    leaks(BrokerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_rabbitmq() {
    leaks(BrokerKind::Amqp).await;
}
