//! Callers who go on calling whatever happens, and what may be said of each call afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use commlib::{Execution, StatusCode};
use commlib_tests::eventually;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::world::{JobClient, Record, SOON};

/// What each call of the load may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Beyond the deadline: 250 ms are promised, the rest is for a machine that does much else.
const SLACK: Duration = Duration::from_secs(10);

type Ending = Option<(StatusCode, Execution)>;

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    next: AtomicU64,
    succeeded: AtomicU64,
    calls: Mutex<BTreeMap<u64, (Ending, Duration, String)>>,
}

/// Calls that go on until it is told to end.
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

impl Load {
    /// Numbers its calls from `first` on.
    pub fn start(nodes: &[Node], callers: usize, first: u64) -> Self {
        let shared = Arc::new(Shared::default());
        shared.next.store(first, Ordering::SeqCst);
        let callers = (0..callers).map(|caller| {
            let job = JobClient::new(&nodes[caller % nodes.len()]);
            call_on(job, Arc::clone(&shared))
        });
        Self {
            callers: callers.collect(),
            shared,
        }
    }

    /// Waits until so many more calls have succeeded.
    pub async fn succeeds(&self, many: u64) {
        let before = self.shared.succeeded.load(Ordering::SeqCst);
        eventually(SOON, || async {
            self.shared.succeeded.load(Ordering::SeqCst) >= before + many
        })
        .await;
    }

    /// Ends it, and compares what callers were told with what ran.
    pub async fn check(mut self, what: &str, record: &Record) -> usize {
        self.shared.over.store(true, Ordering::SeqCst);
        let ended = async { while self.callers.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(DEADLINE + SLACK, ended).await;
        ended.unwrap_or_else(|_| panic!("{what}: calls hang"));
        let calls = std::mem::take(&mut *self.shared.calls.lock());
        let mut failed = 0;
        for (number, (ending, took, text)) in &calls {
            let runs = record.runs(*number);
            let told = format!("{what}: call {number} ran {runs} times, took {took:?}: {text}");
            assert!(*took <= DEADLINE + SLACK, "{told}");
            let Some((code, execution)) = ending else {
                assert_eq!(runs, 1, "{told}");
                continue;
            };
            failed += 1;
            println!("{told}");
            assert!(runs <= 1, "{told}");
            assert!(*execution != Execution::DidNotRun || runs == 0, "{told}");
            let expected = [
                StatusCode::Unavailable,
                StatusCode::DeadlineExceeded,
                StatusCode::NoResponders,
            ];
            assert!(expected.contains(code), "{told}");
        }
        failed
    }
}

async fn call_on(job: JobClient, shared: Arc<Shared>) {
    while !shared.over.load(Ordering::SeqCst) {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        let result = job.run(number).timeout(DEADLINE).await;
        let (ending, text) = match result {
            Ok(answer) => {
                assert_eq!(answer, number, "the reply of another call");
                shared.succeeded.fetch_add(1, Ordering::SeqCst);
                (None, String::new())
            }
            Err(CallError::Status(status)) => (Some((status.code, status.execution)), status.to_string()),
            Err(error) => panic!("call {number}: {error}"),
        };
        let failed = ending.is_some();
        let entry = (ending, begun.elapsed(), text);
        shared.calls.lock().insert(number, entry);
        // Who was refused at once does not ask again at once.
        if failed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

type Listener = (Arc<Mutex<Vec<Heard>>>, tokio::task::JoinHandle<()>);

/// A publisher that counts on, and subscribers that keep what they hear.
pub struct Numbers {
    over: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    /// What the broker refused or may not have got.
    unsure: Arc<Mutex<BTreeSet<u64>>>,
    publisher: tokio::task::JoinHandle<()>,
    listeners: Vec<Listener>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heard {
    Number(u64),
    /// Something may be missing here.
    Notice,
}

impl Numbers {
    pub fn start(
        publisher: crate::world::NewsPublisher,
        subscriptions: Vec<commlib::topic::Subscription<u64, ()>>,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicU64::new(0));
        let unsure = Arc::new(Mutex::new(BTreeSet::new()));
        let listeners = subscriptions.into_iter().map(|mut subscription| {
            let heard = Arc::new(Mutex::new(Vec::new()));
            let task = tokio::spawn({
                let heard = Arc::clone(&heard);
                async move {
                    while let Some(item) = subscription.next().await {
                        let item = match item {
                            Ok(received) => Heard::Number(received.message),
                            Err(RecvError::Gap | RecvError::Lagged(_)) => Heard::Notice,
                            Err(error) => panic!("{error}"),
                        };
                        heard.lock().push(item);
                    }
                }
            });
            (heard, task)
        });
        let listeners = listeners.collect();
        let publisher = tokio::spawn({
            let (over, published, unsure) = (Arc::clone(&over), Arc::clone(&published), Arc::clone(&unsure));
            async move {
                while !over.load(Ordering::SeqCst) {
                    let number = published.fetch_add(1, Ordering::SeqCst) + 1;
                    let limit = Duration::from_millis(200);
                    if publisher.item(number).timeout(limit).await.is_err() {
                        unsure.lock().insert(number);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
        Self {
            over,
            published,
            unsure,
            publisher,
            listeners,
        }
    }

    /// Waits until every subscriber hears what is published from now on.
    pub async fn heard_by_all(&self) {
        let from = self.published.load(Ordering::SeqCst);
        eventually(SOON, || async {
            self.listeners.iter().all(|(heard, _)| {
                let heard = heard.lock();
                matches!(heard.last(), Some(Heard::Number(number)) if *number > from)
            })
        })
        .await;
    }

    /// Ends it. No subscriber misses a number that was published without a notice at that place, nor gets one twice or
    /// out of order.
    pub async fn check(self) {
        self.heard_by_all().await;
        self.over.store(true, Ordering::SeqCst);
        self.publisher.await.expect("the publisher");
        let unsure = self.unsure.lock();
        for (index, (heard, task)) in self.listeners.into_iter().enumerate() {
            task.abort();
            let heard = std::mem::take(&mut *heard.lock());
            let (mut last, mut notice) = (None, false);
            for item in &heard {
                match (*item, last) {
                    (Heard::Notice, _) => notice = true,
                    (Heard::Number(number), Some(before)) => {
                        let told = format!("subscriber {index}: {number} after {before}");
                        assert!(number > before, "{told}");
                        let missing = (before + 1..number).find(|number| !unsure.contains(number));
                        assert!(missing.is_none() || notice, "{told} without a word");
                        (last, notice) = (Some(number), false);
                    }
                    (Heard::Number(number), None) => (last, notice) = (Some(number), false),
                }
            }
            assert!(
                heard.contains(&Heard::Notice),
                "subscriber {index} was told of no gap"
            );
        }
    }
}
