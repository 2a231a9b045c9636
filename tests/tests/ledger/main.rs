//! The ledger: made-up histories, and short runs with real faults. `scripts/soak ledger` runs the long ones.
//!
//! `COMMLIB_SEED` is the seed of the runs, a new one each time unless it is set, as `scripts/test` does.

mod histories;

use std::time::Duration;

use commlib_tests::seed;
use commlib_tests::soak::{BrokerKind, DeadlineRun, LedgerRun, Pace, RecoveryRun};
use tokio::sync::Semaphore;

/// Two at a time: more would measure the machine.
static TURNS: Semaphore = Semaphore::const_new(2);

/// A run as short as it can be with every fault in it. The seed is in the report.
async fn short_run(broker: BrokerKind) {
    let mut run = LedgerRun::full(broker, seed());
    run.pace = Pace {
        every: Duration::from_millis(3_000),
        freeze: Duration::from_millis(1_500),
        hole: Duration::from_millis(2_000),
    };
    run.time = run.pace.every * 6;
    run.least = 0.05;
    run.load.clients = 20;
    run.load.rate = 100.0;
    run.load.messages = 20.0;
    run.load.kept = 20.0;
    run.load.timeout = Duration::from_secs(1);
    let _turn = TURNS.acquire().await.unwrap();
    run.run(env!("CARGO_BIN_EXE_commlib-soak").into())
        .await
        .assert_good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_on_redis() {
    short_run(BrokerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_on_rabbitmq() {
    short_run(BrokerKind::Amqp).await;
}

async fn edges(broker: BrokerKind) {
    let mut run = DeadlineRun::full(broker, seed());
    run.calls = 5_000;
    run.lanes = 60;
    let _turn = TURNS.acquire().await.unwrap();
    run.run(env!("CARGO_BIN_EXE_commlib-soak").into())
        .await
        .assert_good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_at_the_deadline_reach_their_call_or_nobody_on_redis() {
    edges(BrokerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_at_the_deadline_reach_their_call_or_nobody_on_rabbitmq() {
    edges(BrokerKind::Amqp).await;
}

async fn restart(broker: BrokerKind) {
    let run = RecoveryRun {
        restarts: 1,
        clients: 20,
        strict: false,
        ..RecoveryRun::full(broker)
    };
    let _turn = TURNS.acquire().await.unwrap();
    run.run(env!("CARGO_BIN_EXE_commlib-soak").into())
        .await
        .assert_good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_succeed_again_after_a_restart_of_redis() {
    restart(BrokerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_succeed_again_after_a_restart_of_rabbitmq() {
    restart(BrokerKind::Amqp).await;
}
