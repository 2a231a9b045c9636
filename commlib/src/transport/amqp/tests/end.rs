//! What senders are told when a channel or the connection ends under what they handed over.

use std::pin::pin;

use bytes::Bytes;
use commlib_tests::{FaultProxy, Flow, RabbitMq};
use futures_util::FutureExt;

use super::*;

/// To an exchange that does not exist: the broker closes the channel over it.
fn to_nowhere(job: Job) -> Job {
    Job {
        exchange: name("there.is.no.such.exchange"),
        ..job
    }
}

/// Ends a session over the last of these requests, and returns what their callers are told.
async fn close_over(ids: &[&str]) -> Vec<Told> {
    let amqp = open_at(&RabbitMq::shared().await.url()).await;
    let link = link(&amqp).await;
    let queue = queue(&link).await;
    let (lane, mut told) = requests(&amqp);
    let mut flight = pin!(lane.build(&link).await.unwrap().run());
    assert_eq!(poll_immediate(&mut flight).await, None);
    let (last, before) = ids.split_last().unwrap();
    for id in before {
        lane.submit(job(&queue, id)).unwrap();
    }
    lane.submit(to_nowhere(job(&queue, last))).unwrap();
    let end = tokio::time::timeout(LIMIT, flight).await.unwrap();
    assert_eq!(end, flight::End::Lost);
    let told = std::iter::from_fn(|| told.recv().now_or_never().flatten()).collect();
    amqp.close(LIMIT).await.unwrap();
    told
}

#[tokio::test]
async fn the_request_that_closed_a_channel_did_not_run() {
    let told = close_over(&["a"]).await;
    let [Told::Failed(id, error), Told::Lost(_)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((id.as_str(), error.execution), ("a", Execution::DidNotRun));
    assert!(error.message.contains("no exchange"), "{error}");
}

#[tokio::test]
async fn a_request_before_what_closed_the_channel_may_have_run() {
    let told = close_over(&["a", "b"]).await;
    let [Told::Lost(error)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(error.execution, Execution::MayHaveRun);
}

/// A connection whose broker has stopped reading, and requests that fill it up.
struct Stuck {
    amqp: Arc<Amqp>,
    link: Arc<supervisor::Link>,
    proxy: FaultProxy,
    queue: Address,
}

/// More than what is between a client and its broker takes.
const FULL: usize = 64 * 1024 * 1024;
const BODY: usize = 1024 * 1024;

impl Stuck {
    async fn new() -> Self {
        let broker = RabbitMq::shared().await;
        let proxy = FaultProxy::start(broker.port()).await;
        let amqp = open_at(&broker.url_at(proxy.port())).await;
        let link = link(&amqp).await;
        let queue = queue(&link).await;
        Self {
            amqp,
            link,
            proxy,
            queue,
        }
    }

    /// Sends until more waits to be written than may be put behind it; returns how many requests that took.
    async fn fill(&self, lane: &Lane) -> usize {
        self.proxy.set(Flow::Hold);
        for number in 0..FULL / BODY {
            if !lane.queue.lock().is_open() {
                return number;
            }
            let body = vec![b' '; BODY].into();
            let id = number.to_string();
            lane.submit(Job {
                body,
                ..job(&self.queue, &id)
            })
            .unwrap();
            // Its task writes what can be written.
            tokio::task::yield_now().await;
        }
        panic!("there is always room");
    }
}

#[tokio::test]
async fn what_was_not_written_when_the_connection_went_did_not_run() {
    let stuck = Stuck::new().await;
    let (lane, mut told) = requests(&stuck.amqp);
    let mut flight = pin!(lane.build(&stuck.link).await.unwrap().run());
    assert_eq!(poll_immediate(&mut flight).await, None);
    let sent = stuck.fill(&lane).await;
    // One more, for which there is no room.
    lane.submit(job(&stuck.queue, &sent.to_string())).unwrap();
    stuck.proxy.reset().await;
    let end = tokio::time::timeout(LIMIT, flight).await.unwrap();
    assert_eq!(end, flight::End::Lost);

    let mut did_not_run = Vec::new();
    let mut lost = None;
    while let Some(told) = told.recv().now_or_never().flatten() {
        match told {
            Told::Failed(id, error) => {
                assert_eq!(error.execution, Execution::DidNotRun, "{error}");
                did_not_run.push(id.parse::<usize>().unwrap());
            }
            Told::Lost(error) => lost = Some(error.execution),
            other => panic!("{other:?}"),
        }
    }
    // The first were written, so nobody knows; those at the end were not.
    assert_eq!(lost, Some(Execution::MayHaveRun));
    did_not_run.sort_unstable();
    let first = did_not_run[0];
    assert!(0 < first && first < sent, "{first} of {sent}");
    assert_eq!(did_not_run, (first..=sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_waits_for_room_goes_on_when_there_is_some() {
    let stuck = Stuck::new().await;
    let (asking, mut told) = requests(&stuck.amqp);
    let topics = lane(&stuck.amqp, Kind::UnconfirmedTopics);
    let mut flight = pin!(asking.build(&stuck.link).await.unwrap().run());
    assert_eq!(poll_immediate(&mut flight).await, None);
    let publish = || {
        let message = (BasicProperties::default(), Bytes::from_static(b"{}"));
        topics.publish_unconfirmed(name("amq.topic"), name("a"), message)
    };
    // This lane has its task, which opens a channel before anything else.
    publish().await.unwrap();
    stuck.fill(&asking).await;

    let mut waiting = pin!(publish());
    for _ in 0..10 {
        assert!(poll_immediate(&mut waiting).await.is_none(), "there is no room");
        tokio::task::yield_now().await;
    }
    stuck.proxy.set(Flow::Pass);
    tokio::select! {
        published = waiting => assert!(published.expect("it goes on").unconfirmed),
        _ = &mut flight => panic!("the connection is gone"),
    }
    assert!(told.recv().now_or_never().is_none());
}
