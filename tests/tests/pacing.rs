//! Flat out in process: publishers wait for readers that read, and not for long for those that don't; handlers that are
//! done at once need no task each. On a stopped clock.

use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::Subscription;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::Instant;

#[commlib::topic(prefix = "pacing")]
trait Numbers {
    async fn number(&self, number: u64);
}

/// What a reader gets until it has waited for a while: how many messages, and how many it missed.
async fn read(mut numbers: Subscription<u64>) -> (u64, u64) {
    let (mut got, mut missed) = (0, 0);
    while let Ok(Some(received)) = tokio::time::timeout(Duration::from_secs(1), numbers.next()).await {
        match received {
            Ok(_) => got += 1,
            Err(RecvError::Lagged(messages)) => missed += messages,
            Err(error) => panic!("{error}"),
        }
    }
    (got, missed)
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_misses_nothing() {
    let node = Node::connect("memory://pacing").await.unwrap();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let numbers = NumbersSubscriber::new(&node).number().await.unwrap();
        readers.push(tokio::spawn(read(numbers)));
    }
    let began = Instant::now();
    let publishers = (0..64).map(|_| {
        let publisher = NumbersPublisher::new(&node);
        tokio::spawn(async move {
            for number in 0..500 {
                publisher.number(number).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (64 * 500, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_reads_only_afterwards_is_held_up_once() {
    let node = Node::connect("memory://pacing-alone").await.unwrap();
    let numbers = NumbersSubscriber::new(&node).number().await.unwrap();
    let publisher = NumbersPublisher::new(&node);
    let began = Instant::now();
    for number in 0..10_000 {
        publisher.number(number).await.unwrap();
    }
    assert_eq!(began.elapsed().as_millis() / 10, 5, "{:?}", began.elapsed());
    assert_eq!(read(numbers).await, (4096, 10_000 - 4096));
}

/// From here on numbers wait until they may go on.
const WAITING: u64 = 1_000;
/// Does not end well.
const PANICS: u64 = 999;

/// Notes which task handles what.
#[derive(Clone)]
struct Handler {
    begun: Arc<Mutex<Vec<(u64, task::Id)>>>,
    done: Arc<Mutex<Vec<u64>>>,
    gate: Arc<Semaphore>,
}

impl Handler {
    async fn serve(node: &Node, concurrency: usize) -> Self {
        let handler = Self {
            begun: Arc::default(),
            done: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let serve = node.serve(NumbersHandler::new(handler.clone()));
        serve.concurrency(concurrency).await.unwrap();
        handler
    }

    async fn has_begun(&self, count: usize) {
        commlib_tests::eventually(Duration::from_secs(5), || async {
            self.begun.lock().len() >= count
        })
        .await;
    }

    async fn has_done(&self, count: usize) {
        commlib_tests::eventually(Duration::from_secs(5), || async {
            self.done.lock().len() >= count
        })
        .await;
    }
}

impl Numbers for Handler {
    async fn number(&self, number: u64) {
        self.begun.lock().push((number, task::id()));
        assert_ne!(number, PANICS);
        if number >= WAITING {
            self.gate.acquire().await.unwrap().forget();
        }
        self.done.lock().push(number);
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_that_are_done_at_once_share_a_task() {
    for concurrency in [1, 8] {
        let node = Node::connect(&format!("memory://pacing-tasks-{concurrency}"))
            .await
            .unwrap();
        let handler = Handler::serve(&node, concurrency).await;
        let publisher = NumbersPublisher::new(&node);
        for number in 0..100 {
            publisher.number(number).await.unwrap();
            handler.has_done(number as usize + 1).await;
        }
        let begun = handler.begun.lock();
        let last = begun[99].1;
        // The first ones have to show how they behave.
        assert!(begun[20..].iter().all(|(_, task)| *task == last), "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_that_come_to_wait_hold_up_nobody() {
    let node = Node::connect("memory://pacing-waits").await.unwrap();
    let handler = Handler::serve(&node, 3).await;
    let publisher = NumbersPublisher::new(&node);
    for number in (0..50).chain([PANICS]).chain(50..100) {
        publisher.number(number).await.unwrap();
    }
    handler.has_done(100).await;
    // Two wait, and others go on beside them; with a third one that waits there is no room for more.
    for number in [WAITING, WAITING + 1, 100, 101, WAITING + 2, 102] {
        publisher.number(number).await.unwrap();
    }
    handler.has_begun(106).await;
    assert_eq!(handler.done.lock()[100..], [100, 101]);
    handler.gate.add_permits(3);
    handler.has_done(106).await;
    let begun: Vec<u64> = handler.begun.lock().iter().map(|(number, _)| *number).collect();
    assert_eq!(begun[begun.len() - 2..], [WAITING + 2, 102]);
}
