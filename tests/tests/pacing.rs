//! Flat out in process: publishers wait for readers that read, and not for long for those that don't. On a stopped clock.

use std::time::Duration;

use commlib::prelude::*;
use commlib::topic::Subscription;
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
