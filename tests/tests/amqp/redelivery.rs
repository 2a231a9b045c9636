//! A request that the broker delivers a second time: its first run may have begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use commlib::Execution;
use commlib::prelude::*;
use commlib_tests::{RabbitMq, eventually};
use lapin::options::{BasicGetOptions, BasicNackOptions};
use tokio::sync::Semaphore;

use crate::world::{SOON, World};

#[commlib::rpc_service(name = "ledger")]
trait Ledger {
    /// Keeps the only place of the server.
    async fn hold(&self);
    async fn book(&self, amount: i64) -> i64;
    #[rpc(idempotent)]
    async fn look_up(&self, ctx: &RequestContext) -> bool;
}

struct Books {
    holding: Arc<AtomicU64>,
    booked: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
}

impl Ledger for Books {
    async fn hold(&self) {
        self.holding.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("the gate is open").forget();
    }

    async fn book(&self, amount: i64) -> i64 {
        self.booked.fetch_add(1, Ordering::SeqCst);
        amount
    }

    async fn look_up(&self, ctx: &RequestContext) -> bool {
        ctx.is_redelivered()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_idempotent_method_runs_for_a_second_delivery() {
    let broker = RabbitMq::shared().await;
    let world = World::new(broker.url());
    let (holding, booked, gate) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(0)));
    let books = Books {
        holding: Arc::clone(&holding),
        booked: Arc::clone(&booked),
        gate: Arc::clone(&gate),
    };
    let node = world.node().await;
    node.serve(LedgerServer::new(books)).concurrency(1).await.unwrap();
    let ledger = LedgerClient::new(&world.node().await);
    let hold = tokio::spawn(ledger.hold().timeout(SOON).into_future());
    eventually(SOON, || async { holding.load(Ordering::SeqCst) == 1 }).await;

    // These wait in their queues; somebody else takes each and gives it back, as a server that dies does.
    let book = tokio::spawn(ledger.book(5).timeout(SOON).into_future());
    let look_up = tokio::spawn(ledger.look_up().timeout(SOON).into_future());
    let (_connection, channel) = world.raw().await;
    for method in ["ledger.book", "ledger.look_up"] {
        let queue = world.address(method);
        let got = eventually(SOON, || async {
            channel
                .basic_get(queue.as_str().into(), BasicGetOptions::default())
                .await
                .ok()
                .flatten()
        })
        .await;
        let again = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        got.nack(again).await.unwrap();
    }
    gate.add_permits(1);
    hold.await.unwrap().unwrap();
    let error = book.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.execution()),
        (Some(StatusCode::Unavailable), Execution::MayHaveRun)
    );
    assert!(
        look_up.await.unwrap().unwrap(),
        "the handler sees that it is a second delivery"
    );
    assert_eq!(booked.load(Ordering::SeqCst), 0);
    assert_eq!(ledger.book(7).await.unwrap(), 7);
}
