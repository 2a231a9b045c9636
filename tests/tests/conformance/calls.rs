//! Calls: results, errors, deadlines, cancellation, limits, draining.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commlib::middleware::{BoxFuture, Invocation, Middleware, Next, Outcome};
use commlib::prelude::*;
use commlib::rpc::Retry;
use commlib::topic::TopicSubscriber;
use commlib::{Execution, Limits, LocalError, Pattern};
use commlib_tests::eventually;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::contract::{DivError, PongServer, Ponger, ProbeClient, ProbeServer, Prober, Sum};
use crate::world::{SOON, World, serve_on};

pub async fn a_call_returns_what_the_method_returns(world: World) {
    let _served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    assert_eq!(probe.add(1, 2).await.unwrap(), Sum { c: 3 });
    assert_eq!(probe.div(7, 2).await.unwrap(), 3);
}

pub async fn the_methods_own_error_comes_back_typed(world: World) {
    let _served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let error = probe.div(1, 0).await.unwrap_err();
    assert_eq!(error.execution(), Execution::Failed);
    assert_eq!(error.to_string(), "division by zero");
    assert_eq!(error.into_app(), Some(DivError::ByZero));
    let error = probe.div(5000, 1).await.unwrap_err();
    assert_eq!(error.into_app(), Some(DivError::TooLarge { dividend: 5000 }));
}

pub async fn a_oneway_request_runs_without_a_reply(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    probe.note("hello".to_owned()).await.unwrap();
    eventually(SOON, || async {
        (*served.seen.notes.lock() == ["hello"]).then_some(())
    })
    .await;
}

pub async fn headers_and_context_reach_the_handler(world: World) {
    let _served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let seen = probe
        .echo("ünïcode \"quoted\"".to_owned())
        .header("tenant", "x y")
        .header("tenant", "z")
        .await
        .unwrap();
    assert_eq!(seen["text"], "ünïcode \"quoted\"");
    assert_eq!(seen["tenant"], "z");
    assert_eq!(seen["address"], "probe.echo");
    for (name, value) in [("", "x"), ("a b", "x"), ("commlib-x", "x"), ("a", "b\nc")] {
        let error = probe.echo(String::new()).header(name, value).await.unwrap_err();
        assert!(
            matches!(error, CallError::Local(LocalError::Header { .. })),
            "{name:?}: {error}"
        );
    }
}

pub async fn a_call_ends_at_its_deadline(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    probe.add(1, 1).await.unwrap();
    // On a busy machine the time may be over before the request is on its way, which is another end.
    for (limit, last) in [(300, false), (2000, false), (9000, true)] {
        let limit = Duration::from_millis(limit);
        let begun = Instant::now();
        let error = probe.wait(true).timeout(limit).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert!(begun.elapsed() >= limit);
        assert!(error.to_string().contains("probe.wait"), "{error}");
        assert!(!last || error.execution() == Execution::MayHaveRun);
        if error.execution() == Execution::MayHaveRun {
            break;
        }
    }
    served.seen.open();
    // The reply that comes now belongs to nobody; the next call gets its own.
    assert_eq!(probe.add(2, 2).await.unwrap(), Sum { c: 4 });
}

pub async fn what_a_handler_returns_because_of_the_deadline_is_no_success(world: World) {
    let _served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let (mut sent, begun) = (0, Instant::now());
    while sent < 20 && begun.elapsed() < SOON {
        // It returns as soon as its context says that the time is over, which may be before the caller's clock does.
        let error = probe
            .wait(false)
            .timeout(Duration::from_millis(30))
            .await
            .unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_ne!(error.execution(), Execution::Failed);
        // On a busy machine the time may be over before the request is on its way.
        sent += u32::from(error.execution() == Execution::MayHaveRun);
    }
    assert!(sent > 0);
}

pub async fn the_deadline_of_a_request_bounds_the_calls_of_its_handler(world: World) {
    let served = world.serve().await;
    let permits = Arc::new(Semaphore::new(10));
    served
        .node
        .serve(PongServer::new(Ponger { permits }))
        .await
        .unwrap();
    let probe = ProbeClient::new(&world.node().await);
    let left = probe.time_left().timeout(Duration::from_secs(3)).await.unwrap();
    assert!(left <= 3000, "{left}");
    // The nested call would have 10 s of its own.
    let left = probe.relay(1).timeout(Duration::from_secs(3)).await.unwrap();
    assert!(left <= 3000, "{left}");
}

pub async fn dropping_a_call_is_seen_by_the_handler(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let call = tokio::spawn(probe.wait(false).into_future());
    eventually(SOON, || async { served.seen.waiting() == 1 }).await;
    call.abort();
    eventually(SOON, || async { served.seen.canceled() == 1 }).await;
}

pub async fn a_canceled_request_that_waits_is_not_run(world: World) {
    let served = world.serve_with(2).await;
    let probe = ProbeClient::new(&world.node().await);
    let cancels = TopicSubscriber::new(&world.outside().await);
    let pattern = format!("_commlib.cancel.{}", world.address("probe"));
    let pattern = Pattern::new(pattern).unwrap();
    let mut cancels = cancels.pattern::<serde_json::Value>(pattern).await.unwrap();
    let blocked = tokio::spawn(probe.wait(true).into_future());
    let polite = tokio::spawn(probe.wait(false).into_future());
    eventually(SOON, || async { served.seen.waiting() == 2 }).await;
    // Both places are taken, so this one waits. Dropped before it left, it needs no cancellation: then once more.
    let told = async {
        loop {
            let waiting = tokio::spawn(probe.wait(true).into_future());
            tokio::time::sleep(Duration::from_millis(20)).await;
            waiting.abort();
            if let Ok(told) = tokio::time::timeout(Duration::from_millis(500), cancels.next()).await {
                break told;
            }
        }
    };
    let told = tokio::time::timeout(SOON, told).await.expect("a cancellation");
    told.expect("a stream").unwrap();
    // The broker keeps the order: when the server hears of this one, it has heard of the other.
    polite.abort();
    eventually(SOON, || async { served.seen.canceled() == 1 }).await;
    probe.add(1, 1).await.unwrap();
    assert_eq!(served.seen.waiting(), 2);
    served.seen.open();
    assert!(blocked.await.unwrap().unwrap());
}

pub async fn a_panic_is_an_internal_error_and_the_server_lives_on(world: World) {
    let _served = world.serve_with(2).await;
    let probe = ProbeClient::new(&world.node().await);
    for _ in 0..5 {
        let error = probe.panic().await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::Internal));
        assert_eq!(error.execution(), Execution::Failed);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(probe.add(1, 2).await.unwrap(), Sum { c: 3 });
}

pub async fn nested_calls_do_not_deadlock_at_concurrency_one(world: World) {
    let served = world.serve_with(1).await;
    let permits = Arc::new(Semaphore::new(1));
    served
        .node
        .serve(PongServer::new(Ponger { permits }))
        .concurrency(1)
        .await
        .unwrap();
    let probe = ProbeClient::new(&world.node().await);
    for call in futures_util::future::join_all((0..10).map(|_| probe.relay(1).into_future())).await {
        call.unwrap();
    }
}

pub async fn two_services_that_call_each_other_do_not_deadlock(world: World) {
    let served = world.serve_with(4).await;
    let permits = Arc::new(Semaphore::new(4));
    served
        .node
        .serve(PongServer::new(Ponger { permits }))
        .concurrency(4)
        .await
        .unwrap();
    let probe = ProbeClient::new(&world.node().await);
    probe.relay(5).await.unwrap();
}

pub async fn many_calls_in_flight_each_get_their_own_reply(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let calls = (0..1000).map(|n| probe.add(n, n).into_future());
    for (n, reply) in (0i64..).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(reply.unwrap(), Sum { c: 2 * n });
    }
    assert_eq!(served.seen.runs(), 1000);
}

pub async fn too_many_calls_in_flight_are_refused(world: World) {
    let served = world.serve().await;
    let node = world.connect(world.builder().max_in_flight(2)).await;
    let probe = ProbeClient::new(&node);
    let mut calls = Vec::new();
    for in_flight in [1, 2] {
        calls.push(tokio::spawn(probe.wait(true).into_future()));
        eventually(SOON, || async { served.seen.waiting() == in_flight }).await;
        if in_flight == 1 {
            probe.add(1, 1).await.unwrap();
        }
    }
    let error = probe.add(1, 1).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted));
    assert_eq!(error.execution(), Execution::DidNotRun);
    served.seen.open();
    for call in calls {
        assert!(call.await.unwrap().unwrap());
    }
    probe.add(1, 1).await.unwrap();
}

pub async fn a_request_that_waited_too_long_is_refused(world: World) {
    let prober = Prober::default();
    let seen = Arc::clone(&prober.seen);
    let limit = Duration::from_millis(1500);
    let node = world.node().await;
    let server = node
        .serve(ProbeServer::new(prober))
        .concurrency(1)
        .max_wait(limit);
    server.await.unwrap();
    let probe = ProbeClient::new(&world.node().await);
    let first = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;
    let late = tokio::spawn(probe.add(1, 1).into_future());
    // On a busy machine it gets there late.
    tokio::time::sleep(limit + Duration::from_millis(1500)).await;
    seen.open();
    assert!(first.await.unwrap().unwrap());
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted));
    assert_eq!(error.execution(), Execution::DidNotRun);
    assert_eq!(probe.add(1, 2).await.unwrap(), Sum { c: 3 });
    assert_eq!(seen.runs(), 1);
}

pub async fn servers_that_refuse_are_sent_less(world: World) {
    let prober = Prober::default();
    let seen = Arc::clone(&prober.seen);
    let limit = Duration::from_millis(500);
    let server = world.node().await;
    let serving = server
        .serve(ProbeServer::new(prober))
        .concurrency(1)
        .max_wait(limit);
    serving.await.unwrap();
    let limits = Limits::new().refusals(5);
    let probe = ProbeClient::new(&world.connect(world.builder().limits(limits)).await);
    let add = |calls| futures_util::future::join_all((0..calls).map(|n| probe.add(n, n).into_future()));

    let first = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { seen.waiting() == 1 }).await;
    let late = tokio::spawn(add(20));
    tokio::time::sleep(limit + Duration::from_millis(1000)).await;
    seen.open();
    assert!(first.await.unwrap().unwrap());
    for reply in late.await.unwrap() {
        let error = reply.unwrap_err();
        assert!(error.to_string().contains("waited too long"), "{error}");
    }
    // It got 5 refusals a second, or with each second that passed since then twice as many.
    let second = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { seen.waiting() == 2 }).await;
    let mut more = add(2000);
    // All have set out now, or not.
    assert!((&mut more).now_or_never().is_none());
    seen.open();
    assert!(second.await.unwrap().unwrap());
    let replies = more.await;
    let unsent = replies.iter().filter(|reply| was_not_sent(reply)).count();
    assert!((100..2000).contains(&unsent), "{unsent} were not sent");
    // On a busy machine it waits too long, but it is sent.
    let another_method = probe.length("text".to_owned()).await;
    assert!(!was_not_sent(&another_method), "{another_method:?}");
}

pub async fn a_full_queue_is_sent_less(world: World) {
    let served = world.serve_with(1).await;
    let limits = Limits::new().calls_in_flight(20_000).refusals(5);
    let probe = ProbeClient::new(&world.connect(world.builder().limits(limits)).await);
    let long = Duration::from_secs(120);
    let add = |n| probe.add(n, n).timeout(long).into_future();

    let first = tokio::spawn(probe.wait(true).timeout(long).into_future());
    eventually(SOON, || async { served.seen.waiting() == 1 }).await;
    // The queue takes 10,000, and the server some more while it is busy.
    let mut calls: FuturesUnordered<_> = (0..15_000).map(add).collect();
    let error = calls.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted));
    assert_eq!(error.execution(), Execution::DidNotRun);
    assert!(!was_not_sent::<Sum, _>(&Err(error)), "nothing was refused before");
    let more = futures_util::future::join_all((0..1000).map(add)).await;
    let unsent = more.iter().filter(|reply| was_not_sent(reply)).count();
    assert!(unsent >= 500, "{unsent} were not sent");

    // What was taken is answered.
    served.seen.open();
    assert!(first.await.unwrap().unwrap());
    let answered = calls.filter_map(|reply| async { reply.ok() }).take(1000);
    assert_eq!(answered.count().await, 1000);
}

/// Whether a node held a call back because others were refused.
fn was_not_sent<T, E>(reply: &Result<T, CallError<E>>) -> bool {
    let Err(CallError::Status(status)) = reply else {
        return false;
    };
    let was = status.message.contains("was not sent");
    if was {
        assert_eq!(status.code, StatusCode::ResourceExhausted);
        assert_eq!(status.execution, Execution::DidNotRun);
    }
    was
}

pub async fn a_body_over_the_limit_is_refused_before_it_is_sent(world: World) {
    let _served = world.serve().await;
    let node = world.connect(world.builder().max_body(1000)).await;
    let probe = ProbeClient::new(&node);
    // {"text":"…"} has eleven bytes around the text.
    for (size, fits) in [(988, true), (989, true), (990, false)] {
        let reply = probe.echo("x".repeat(size)).await;
        match reply {
            Ok(_) => assert!(fits, "{size}"),
            // The reply carries the text too, so the largest that fits out does not fit in.
            Err(CallError::Status(status)) => {
                assert!(fits, "{size}: {status}");
                assert_eq!(status.code, StatusCode::ResourceExhausted);
                assert_eq!(status.execution, Execution::Failed);
            }
            Err(error) => {
                assert!(!fits, "{size}: {error}");
                assert_eq!(error.execution(), Execution::DidNotRun);
                assert!(
                    matches!(
                        error,
                        CallError::Local(LocalError::TooLarge {
                            size: 1001,
                            limit: 1000,
                            ..
                        })
                    ),
                    "{error}"
                );
            }
        }
    }
}

pub async fn a_reply_over_the_limit_is_an_error(world: World) {
    let node = world.connect(world.builder().max_body(1000)).await;
    let _served = serve_on(node, 8).await;
    let probe = ProbeClient::new(&world.node().await);
    // A string has two quotes around it.
    assert_eq!(probe.bytes(998).await.unwrap().len(), 998);
    let error = probe.bytes(999).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted));
    assert_eq!(error.execution(), Execution::Failed);
}

pub async fn shutdown_finishes_what_was_taken(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(probe.wait(true).into_future()))
        .collect();
    eventually(SOON, || async { served.seen.waiting() == 50 }).await;
    let shutdown = tokio::spawn({
        let server = served.server.clone();
        async move { server.shutdown().await }
    });
    // New calls are not taken any more, while those 50 go on.
    let refused = |error: CallError<_>| error.execution() == Execution::DidNotRun || error.is_timeout();
    eventually(SOON, || async {
        probe
            .add(1, 1)
            .timeout(Duration::from_millis(200))
            .await
            .err()
            .map(refused)
            .filter(|refused| *refused)
    })
    .await;
    served.seen.open();
    for call in calls {
        assert!(call.await.unwrap().unwrap());
    }
    shutdown.await.unwrap().unwrap();
}

pub async fn shutdown_ends_what_does_not_finish(world: World) {
    let served = world.serve().await;
    let probe = ProbeClient::new(&world.node().await);
    let polite = tokio::spawn(probe.wait(false).into_future());
    let stubborn = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { served.seen.waiting() == 2 }).await;
    let error = served
        .server
        .shutdown_within(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did not finish"), "{error}");
    assert!(!polite.await.unwrap().unwrap());
    let error = stubborn.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::Unavailable));
    assert_eq!(error.execution(), Execution::MayHaveRun);
}

pub async fn a_node_that_is_shut_down_refuses_calls(world: World) {
    let served = world.serve().await;
    let node = world.node().await;
    let probe = ProbeClient::new(&node);
    let call = tokio::spawn(probe.wait(true).into_future());
    eventually(SOON, || async { served.seen.waiting() == 1 }).await;
    node.shutdown(SOON).await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.execution()),
        (Some(StatusCode::Unavailable), Execution::MayHaveRun)
    );
    let error = probe.add(1, 2).await.unwrap_err();
    assert!(matches!(error, CallError::Local(LocalError::Closed)), "{error}");
    assert!(node.serve(ProbeServer::new(Prober::default())).await.is_err());
    node.shutdown(SOON).await.unwrap();
    served.node.shutdown(Duration::from_secs(1)).await.unwrap_err();
}

pub async fn retries_stop_when_somebody_serves(world: World) {
    let node = world.node().await;
    let probe = ProbeClient::new(&node);
    let call = tokio::spawn(probe.add(1, 2).retry(Retry::times(100)).into_future());
    // It must have failed once before anybody serves.
    let refused = probe.add(1, 2).await.unwrap_err();
    assert!(refused.is_no_responders(), "{refused}");
    let _served = world.serve().await;
    assert_eq!(call.await.unwrap().unwrap(), Sum { c: 3 });
}

/// Adds a header, or asks for it.
struct Stamp {
    asks: bool,
    seen: Arc<AtomicU64>,
}

impl Middleware for Stamp {
    fn handle<'a>(&'a self, mut invocation: Invocation, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.asks {
            if invocation.headers.get("token") != Some("let me in") {
                let status = Status::new(StatusCode::PermissionDenied, "show the token");
                return async { Err(status.into()) }.boxed();
            }
            invocation.headers.insert("user", "ann");
        } else {
            invocation.headers.insert("token", "let me in");
        }
        next.run(invocation)
    }
}

pub async fn middleware_wraps_both_sides(world: World) {
    let (client, server) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let asking = Stamp {
        asks: true,
        seen: Arc::clone(&server),
    };
    let _served = serve_on(world.connect(world.builder().server_middleware(asking)).await, 8).await;
    let stamping = Stamp {
        asks: false,
        seen: Arc::clone(&client),
    };
    let probe = ProbeClient::new(&world.connect(world.builder().client_middleware(stamping)).await);
    assert_eq!(probe.echo(String::new()).await.unwrap()["user"], "ann");
    let without = ProbeClient::new(&world.node().await);
    let error = without.add(1, 2).await.unwrap_err();
    assert_eq!(
        (error.code(), error.execution()),
        (Some(StatusCode::PermissionDenied), Execution::DidNotRun)
    );
    assert_eq!(
        (client.load(Ordering::SeqCst), server.load(Ordering::SeqCst)),
        (1, 2)
    );
}

pub async fn the_trace_goes_through(world: World) {
    let served = world.serve().await;
    let permits = Arc::new(Semaphore::new(1));
    served
        .node
        .serve(PongServer::new(Ponger { permits }))
        .await
        .unwrap();
    let probe = ProbeClient::new(&world.node().await);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = probe
        .echo(String::new())
        .header("traceparent", parent)
        .header("tracestate", "a=1")
        .await
        .unwrap();
    assert_eq!(
        (seen["traceparent"].as_str(), seen["tracestate"].as_str()),
        (parent, "a=1")
    );
    // Without one, a new trace begins, as these tests have a subscriber.
    let seen = probe.echo(String::new()).await.unwrap();
    assert!(
        seen["traceparent"]
            .parse::<commlib::trace::TraceContext>()
            .is_ok()
    );
}
