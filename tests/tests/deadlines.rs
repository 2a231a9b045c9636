//! Deadlines to the millisecond, on the in-process bus with a paused clock: which limit holds, and that it holds.

use std::time::Duration;

use commlib::prelude::*;
use commlib::rpc::{Retry, RetryBudget};
use commlib::{Execution, NodeBuilder};
use commlib_tests::unique;
use tokio::time::Instant;

#[commlib::rpc_service(name = "slow")]
trait Slow {
    async fn never(&self);
    #[rpc(timeout = "1.5s")]
    async fn never_in_its_own_time(&self);
    async fn sleep(&self, ctx: &RequestContext, ms: u64) -> bool;
    /// Calls `never` of the same service and says how long that took, in ms.
    async fn nested(&self, ctx: &RequestContext) -> u64;
    #[rpc(idempotent)]
    async fn flaky(&self);
}

#[commlib::topic(prefix = "notes")]
trait Notes {
    async fn note(&self, number: u64);
}

struct Sleeper;

impl Slow for Sleeper {
    async fn never(&self) {
        std::future::pending().await
    }
    async fn never_in_its_own_time(&self) {
        std::future::pending().await
    }
    async fn sleep(&self, ctx: &RequestContext, ms: u64) -> bool {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        ctx.is_canceled()
    }
    async fn nested(&self, ctx: &RequestContext) -> u64 {
        let begun = Instant::now();
        let error = SlowClient::new(ctx.node()).never().await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        begun.elapsed().as_millis().try_into().unwrap()
    }
    async fn flaky(&self) {}
}

async fn serve(builder: NodeBuilder) -> (SlowClient, commlib::Node, commlib::ServerHandle) {
    let node = builder
        .connect(&format!("memory://{}", unique("deadlines")))
        .await
        .unwrap();
    let server = node.serve(SlowServer::new(Sleeper)).await.unwrap();
    (SlowClient::new(&node), node, server)
}

/// How long a call that times out takes.
async fn time<T: std::fmt::Debug>(
    call: impl IntoFuture<Output = Result<T, CallError<commlib::NoError>>>,
) -> Duration {
    let begun = Instant::now();
    let error = call.await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.execution(), Execution::MayHaveRun);
    begun.elapsed()
}

/// A timer of tokio is at most one millisecond late.
fn is(took: Duration, wanted_ms: u64) {
    let wanted = Duration::from_millis(wanted_ms);
    assert!(
        took >= wanted && took <= wanted + Duration::from_millis(2),
        "{took:?} for {wanted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_nearest_setting_holds() {
    let (slow, _node, _server) = serve(Node::builder()).await;
    is(time(slow.never()).await, 10_000);
    is(time(slow.never_in_its_own_time()).await, 1_500);
    is(
        time(slow.never_in_its_own_time().timeout(Duration::from_millis(700))).await,
        700,
    );
    let (slow, _node, _server) = serve(Node::builder().call_timeout(Duration::from_secs(3))).await;
    is(time(slow.never()).await, 3_000);
    is(time(slow.never_in_its_own_time()).await, 1_500);
}

#[tokio::test(start_paused = true)]
async fn a_reply_just_in_time_counts_and_one_just_late_does_not() {
    let (slow, _node, _server) = serve(Node::builder()).await;
    assert!(
        !slow
            .sleep(990)
            .timeout(Duration::from_millis(1000))
            .await
            .unwrap()
    );
    is(
        time(slow.sleep(1010).timeout(Duration::from_millis(1000))).await,
        1_000,
    );
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_has_what_its_request_has_left() {
    let (slow, _node, _server) = serve(Node::builder()).await;
    // The outer call times out at the moment in which the inner one does.
    is(
        time(slow.nested().timeout(Duration::from_millis(2_000))).await,
        2_000,
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_without_time_does_not_run() {
    let (slow, _node, _server) = serve(Node::builder()).await;
    let error = slow.never().timeout(Duration::ZERO).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    is(time(slow.never().timeout(Duration::from_millis(1))).await, 1);
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_the_deadline() {
    // More than it can make in the time, so that only the deadline ends it.
    let node = Node::builder()
        .retry_budget(RetryBudget::default().floor(100_000))
        .connect(&format!("memory://{}", unique("deadlines")))
        .await
        .unwrap();
    let begun = Instant::now();
    let call = SlowClient::new(&node)
        .flaky()
        .retry(Retry::times(100_000))
        .timeout(Duration::from_secs(20));
    let error = call.await.unwrap_err();
    assert!(error.is_no_responders(), "{error}");
    let took = begun.elapsed();
    // The last delay, of at most 5 s, did not fit any more.
    assert!(
        took <= Duration::from_secs(20) && took >= Duration::from_secs(15),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_limit() {
    let (slow, node, server) = serve(Node::builder()).await;
    let call = tokio::spawn(slow.never().timeout(Duration::from_secs(600)).into_future());
    tokio::time::sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    server.shutdown().await.unwrap_err();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(30) && took <= Duration::from_secs(31),
        "{took:?}"
    );
    assert_eq!(
        call.await.unwrap().unwrap_err().code(),
        Some(StatusCode::Unavailable)
    );
    node.shutdown(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn times_without_an_end_are_times() {
    let node = Node::builder()
        .connect_timeout(Duration::MAX)
        .operation_timeout(Duration::MAX)
        .call_timeout(Duration::MAX);
    let (slow, node, server) = serve(node).await;
    assert!(!slow.sleep(1000).await.unwrap());
    assert!(!slow.sleep(1000).timeout(Duration::MAX).await.unwrap());
    slow.flaky()
        .timeout(Duration::MAX)
        .retry(Retry::times(1))
        .await
        .unwrap();
    let notes = NotesPublisher::new(&node);
    notes.note(1).timeout(Duration::MAX).await.unwrap();
    server.shutdown_within(Duration::MAX).await.unwrap();
    node.shutdown(Duration::MAX).await.unwrap();
}
