//! The clients of a run: nodes that call at a rate, whatever becomes of the calls.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use commlib::rpc::Retry;
use commlib::{CallError, Execution, NoError, Node, NodeError};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::contract::{EntriesPublisher, KeptClient, WorkClient, value_of};
use crate::ledger::{Ledger, Outcome};

/// How much longer than its deadline a call is watched before it counts as one that never ends.
const NEVER: Duration = Duration::from_secs(5);

/// The ledgers of calls, of messages and of calls that are kept, while they are written.
#[derive(Debug)]
pub struct Books {
    /// The beginning of the run.
    pub begun: Instant,
    /// The calls.
    pub calls: Mutex<Ledger>,
    /// The messages of the durable topic.
    pub messages: Mutex<Ledger>,
    /// The calls of durable methods.
    pub kept: Mutex<Ledger>,
    /// Answers to second calls with a key that were not those to the first.
    pub unlike: Mutex<Vec<u64>>,
    next: AtomicU64,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            calls: Mutex::default(),
            messages: Mutex::default(),
            kept: Mutex::default(),
            unlike: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }
}

impl Books {
    /// The time of the run.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether of everything that is sent something succeeded that began later than `from`.
    #[must_use]
    pub fn is_back(&self, from: Duration) -> bool {
        [&self.calls, &self.messages, &self.kept]
            .into_iter()
            .all(|ledger| {
                let ledger = ledger.lock();
                let mut later = ledger.successes().filter(|(begun, _)| *begun > from);
                ledger.is_empty() || later.any(|(_, done)| done.is_some())
            })
    }

    /// Makes one call, and writes down how it ends.
    pub async fn call(&self, client: &WorkClient, hold: Duration, timeout: Duration) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let value = value_of(id);
        let now = self.now();
        self.calls.lock().invoke(id, value, now, now + timeout);
        let hold = u64::try_from(hold.as_micros()).unwrap_or(u64::MAX);
        let call = client.work(id, value, hold).timeout(timeout);
        if let Ok(result) = tokio::time::timeout(timeout + NEVER, call).await {
            let outcome = outcome_of_call(result);
            self.calls.lock().end(id, self.now(), outcome);
        }
    }

    /// Publishes one message, and writes down whether it was accepted.
    pub async fn publish(&self, publisher: &EntriesPublisher, timeout: Duration) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        self.messages.lock().invoke(id, 0, now, now + timeout);
        let publishing = publisher.entry(id).timeout(timeout);
        if let Ok(result) = tokio::time::timeout(timeout + NEVER, publishing).await {
            let outcome = match result {
                Ok(_) => Outcome::Accepted,
                Err(error) => outcome_of_failure(&error),
            };
            self.messages.lock().end(id, self.now(), outcome);
        }
    }

    /// Makes one call of a durable method, with a key of its own, tried again by the client where that may be; and writes
    /// down how it ends. Every third one wants no answer. Of the others every second one, unless it certainly did not run,
    /// is made once more with its key and must get the same answer, if it gets one.
    pub async fn keep(&self, client: &KeptClient, hold: Duration, timeout: Duration) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (value, key) = (value_of(id), format!("key-{id}"));
        let (now, retry) = (self.now(), Retry::times(3));
        self.kept.lock().invoke(id, value, now, now + timeout);
        if id.is_multiple_of(3) {
            let note = client.note(id).idempotency_key(key).timeout(timeout).retry(retry);
            if let Ok(result) = tokio::time::timeout(timeout + NEVER, note).await {
                let outcome = match result {
                    Ok(_) => Outcome::Accepted,
                    Err(error) => outcome_of_failure(&error),
                };
                self.kept.lock().end(id, self.now(), outcome);
            }
            return;
        }
        let hold = u64::try_from(hold.as_micros()).unwrap_or(u64::MAX);
        let call = || {
            client
                .keep(id, value, hold)
                .idempotency_key(key.as_str())
                .timeout(timeout)
        };
        let first = tokio::time::timeout(timeout + NEVER, call().retry(retry).into_future());
        let Ok(result) = first.await else { return };
        let did_not_run = matches!(&result, Err(error) if error.execution() == Execution::DidNotRun);
        let outcome = outcome_of_call(result);
        self.kept.lock().end(id, self.now(), outcome);
        if id.is_multiple_of(2)
            && !did_not_run
            && let Ok(Ok(answer)) = tokio::time::timeout(timeout + NEVER, call().into_future()).await
            && answer != (id, value)
        {
            self.unlike.lock().push(id);
        }
    }

    /// Writes down when this process gets the processor late, until the value is dropped.
    #[must_use]
    pub fn watch_lag(self: &Arc<Self>) -> LagWatch {
        let over = Arc::new(AtomicBool::new(false));
        let (books, ends) = (Arc::clone(self), Arc::clone(&over));
        // A thread, not a task: a runtime that is held up by the code under test is no excuse.
        std::thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(10);
            let waits = Waits::of_runtimes();
            while !ends.load(Ordering::Relaxed) {
                let begun = std::time::Instant::now();
                std::thread::sleep(STEP);
                let late = begun.elapsed().saturating_sub(STEP);
                let (now, waited) = (books.now(), waits.total());
                for ledger in [&books.calls, &books.messages, &books.kept] {
                    let mut ledger = ledger.lock();
                    ledger.lagged(late);
                    ledger.waited(now, waited);
                }
            }
        });
        LagWatch(over)
    }
}

/// For how long the threads of the runtime have waited for a processor, together; where the system does not say, for no
/// time. Not those of the clients' connections: what such a thread holds up is held up by the library.
struct Waits(Vec<PathBuf>);

impl Waits {
    /// Of the runtimes that this process has by now.
    fn of_runtimes() -> Self {
        let threads = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        let workers = threads.map(|thread| thread.path()).filter(|thread| {
            let name = std::fs::read_to_string(thread.join("comm"));
            name.is_ok_and(|name| name.starts_with("tokio-r"))
        });
        Self(workers.map(|thread| thread.join("schedstat")).collect())
    }

    fn total(&self) -> Duration {
        let waits = self.0.iter().map(|thread| {
            let text = std::fs::read_to_string(thread).unwrap_or_default();
            // Time on a processor, time waiting for one, both in ns.
            let waited = text.split_whitespace().nth(1);
            waited.and_then(|waited| waited.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(waits.sum())
    }
}

/// See [`Books::watch_lag`].
#[derive(Debug)]
pub struct LagWatch(Arc<AtomicBool>);

impl Drop for LagWatch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn outcome_of_call(result: Result<(u64, u64), CallError<NoError>>) -> Outcome {
    match result {
        Ok((of, value)) => Outcome::Reply { of, value },
        Err(error) => Outcome::Error {
            execution: error.execution(),
            code: match &error {
                CallError::Status(status) => status.code.to_string(),
                other => other.to_string(),
            },
        },
    }
}

fn outcome_of_failure(error: &NodeError) -> Outcome {
    Outcome::Error {
        execution: error.execution(),
        code: match error.code() {
            Some(code) => code.to_string(),
            None => error.to_string(),
        },
    }
}

/// How much is called.
#[derive(Debug, Clone)]
pub struct Load {
    /// Nodes.
    pub clients: u32,
    /// Calls per second, of all clients.
    pub rate: f64,
    /// Messages of the durable topic per second, of all clients.
    pub messages: f64,
    /// Calls of durable methods per second, of all clients.
    pub kept: f64,
    /// How long a call may take.
    pub timeout: Duration,
    /// How long a publish may take: long enough to live through a restart of the broker or not.
    pub publish_timeout: Duration,
    /// How long a handler waits.
    pub hold: Duration,
}

/// Connects the nodes. They connect by themselves later if the broker is away.
///
/// # Panics
/// When the URL is none.
pub async fn connect(url: &str, clients: u32) -> Vec<Node> {
    let mut joined = JoinSet::new();
    for _ in 0..clients {
        let url = url.to_owned();
        joined.spawn(async move {
            let node = Node::builder().lazy().connect(&url).await;
            node.unwrap_or_else(|error| panic!("could not connect: {error}"))
        });
    }
    joined.join_all().await
}

/// Calls and publishes until `over`, and waits until every call has ended.
pub async fn run(load: &Load, nodes: &[Node], books: &Arc<Books>, over: &CancellationToken) {
    let mut clients = JoinSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let share = index as f64 / nodes.len() as f64;
        for (rate, kind) in [
            (load.rate, Kind::Call),
            (load.messages, Kind::Message),
            (load.kept, Kind::Kept),
        ] {
            if rate > 0.0 {
                let period = Duration::from_secs_f64(nodes.len() as f64 / rate);
                let client = Client {
                    load: load.clone(),
                    node: node.clone(),
                    books: Arc::clone(books),
                };
                clients.spawn(client.run(kind, period, period.mul_f64(share), over.clone()));
            }
        }
    }
    clients.join_all().await;
}

/// What a client sends.
#[derive(Clone, Copy)]
enum Kind {
    Call,
    Message,
    Kept,
}

struct Client {
    load: Load,
    node: Node,
    books: Arc<Books>,
}

impl Client {
    async fn run(self, kind: Kind, period: Duration, offset: Duration, over: CancellationToken) {
        let mut ticks = tokio::time::interval_at(Instant::now() + offset, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (client, publisher) = (WorkClient::new(&self.node), EntriesPublisher::new(&self.node));
        let keeper = KeptClient::new(&self.node);
        let mut going = JoinSet::new();
        while over.run_until_cancelled(ticks.tick()).await.is_some() {
            let (books, load) = (Arc::clone(&self.books), self.load.clone());
            let (client, publisher, keeper) = (client.clone(), publisher.clone(), keeper.clone());
            going.spawn(async move {
                match kind {
                    Kind::Call => books.call(&client, load.hold, load.timeout).await,
                    Kind::Message => books.publish(&publisher, load.publish_timeout).await,
                    Kind::Kept => books.keep(&keeper, load.hold, load.publish_timeout).await,
                }
            });
            while going.try_join_next().is_some() {}
        }
        going.join_all().await;
    }
}
