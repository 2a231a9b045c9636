//! The promises on an in-process bus on which messages are lost, late, doubled and overtaken and connections break, over
//! many seeds with a paused clock. A seed that failed once goes into [`FIXED`]; the others are drawn with `COMMLIB_SEED`,
//! which is a new one each time unless it is set, as `scripts/test` does.

use std::sync::Arc;
use std::time::Duration;

use commlib::Execution;
use commlib::prelude::*;
use commlib::transport::memory::{Bus, MemoryFaults};
use commlib_tests::ledger::{Finding, Promise, Verdict};
use commlib_tests::soak::contract::{
    Entries, EntriesHandler, EntriesPublisher, GROUP, Work, WorkClient, WorkServer,
};
use commlib_tests::soak::load::Books;
use commlib_tests::{seed, unique};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Seeds that are always tried: those that ever failed.
const FIXED: &[u64] = &[];
/// How many more are drawn. The one that failed is in the message.
const DRAWN: usize = 300;

#[derive(Clone, Default)]
struct Keeper {
    calls: Arc<Mutex<Vec<u64>>>,
    messages: Arc<Mutex<Vec<u64>>>,
}

impl Work for Keeper {
    async fn work(&self, id: u64, value: u64, hold_us: u64) -> (u64, u64) {
        self.calls.lock().push(id);
        if hold_us > 0 {
            tokio::time::sleep(Duration::from_micros(hold_us)).await;
        }
        (id, value)
    }
}

impl Entries for Keeper {
    async fn entry(&self, _: &MessageContext, id: u64) {
        self.messages.lock().push(id);
    }
}

fn weather(seed: u64) -> MemoryFaults {
    MemoryFaults::seed(seed)
        .lose(0.02)
        .delay(0.2, Duration::from_millis(300))
        .duplicate(0.05)
        .reorder(0.1)
        .disconnect(0.01, Duration::from_millis(400))
}

/// Three servers, five clients with 20 calls and 5 messages each, all on a bus with these faults.
async fn history(faults: MemoryFaults) -> [Verdict; 2] {
    let name = unique("seeded");
    let bus = Bus::named(&name);
    bus.set_faults(faults);
    let url = format!("memory://{name}");
    let keeper = Keeper::default();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let node = Node::connect(&url).await.unwrap();
        node.serve(WorkServer::new(keeper.clone()))
            .concurrency(4)
            .await
            .unwrap();
        node.serve(EntriesHandler::new(keeper.clone()))
            .group(GROUP)
            .await
            .unwrap();
        servers.push(node);
    }
    let books = Arc::new(Books::default());
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        let node = Node::builder()
            .operation_timeout(Duration::from_millis(700))
            .connect(&url)
            .await
            .unwrap();
        let (books, client, publisher) = (
            Arc::clone(&books),
            WorkClient::new(&node),
            EntriesPublisher::new(&node),
        );
        clients.spawn(async move {
            for number in 0..20_u64 {
                let hold = Duration::from_millis(number % 4 * 40);
                books.call(&client, hold, Duration::from_millis(500)).await;
                if number % 4 == 0 {
                    books.publish(&publisher, Duration::from_secs(1)).await;
                }
            }
            node.shutdown(Duration::from_secs(5)).await.unwrap();
        });
    }
    clients.join_all().await;
    // What is late comes, and connections come back.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (mut calls, mut messages) = (books.calls.lock().clone(), books.messages.lock().clone());
    keeper.calls.lock().iter().for_each(|id| calls.ran(*id));
    keeper.messages.lock().iter().for_each(|id| messages.ran(*id));
    [
        calls.check(Promise::AtMostOnce),
        messages.check(Promise::AtLeastOnce),
    ]
}

/// A runtime whose clock goes on when nothing else does.
fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Runs a history on a runtime of its own, so that one seed is one history.
fn run(faults: MemoryFaults) -> [Verdict; 2] {
    paused().block_on(history(faults))
}

#[test]
fn promises_are_kept_whatever_is_drawn() {
    let mut random = StdRng::seed_from_u64(seed());
    let drawn = (0..DRAWN).map(|_| random.random());
    let mut found = [0; 3];
    for seed in FIXED.iter().copied().chain(drawn) {
        let [calls, messages] = run(weather(seed));
        assert!(
            calls.is_kept() && messages.is_kept(),
            "seed {seed} breaks a promise; add it to FIXED\n{calls}\n{messages}"
        );
        found[0] += calls.succeeded();
        found[1] += calls.count(Finding::Recovered);
        found[2] += messages.count(Finding::Duplicated);
    }
    // The faults are there, and most calls live through them.
    assert!(
        found[0] > DRAWN * 50 && found[1] > DRAWN && found[2] > 0,
        "{found:?}"
    );
}

#[test]
fn one_seed_is_one_history() {
    let text = |seed| run(weather(seed)).map(|verdict| verdict.to_string());
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn without_faults_everything_succeeds_once() {
    let [calls, messages] = run(MemoryFaults::seed(1));
    assert_eq!((calls.succeeded(), messages.succeeded()), (100, 25));
    assert_eq!(messages.count(Finding::Duplicated), 0);
    calls.assert_kept();
    messages.assert_kept();
}

/// Subscribers of topics that are not kept miss messages only when they are told so.
#[test]
fn every_gap_is_announced() {
    paused().block_on(async {
        #[commlib::topic(prefix = "numbers")]
        trait Numbers {
            #[topic("number")]
            async fn number(&self, number: u64);
            #[topic("unheard")]
            async fn unheard(&self, number: u64);
        }
        let name = unique("seeded");
        let bus = Bus::named(&name);
        let url = format!("memory://{name}");
        let publisher = NumbersPublisher::new(&Node::connect(&url).await.unwrap());
        bus.set_faults(MemoryFaults::seed(3).disconnect(0.05, Duration::from_millis(400)));
        let node = Node::connect(&url).await.unwrap();
        let mut numbers = NumbersSubscriber::new(&node).number().await.unwrap();
        let sending = tokio::spawn(async move {
            for number in 0..500 {
                publisher.number(number).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        // What this node sends breaks its connection now and then.
        let unheard = NumbersPublisher::new(&node);
        let breaking = tokio::spawn(async move {
            loop {
                let _ = unheard.unheard(0).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let (mut next, mut told, mut gaps, mut missed) = (0, false, 0, 0);
        while let Ok(Some(received)) = tokio::time::timeout(Duration::from_secs(2), numbers.next()).await {
            match received {
                Ok(received) => {
                    assert!(
                        received.message == next || told,
                        "{} after {next}, untold",
                        received.message
                    );
                    missed += received.message - next;
                    next = received.message + 1;
                    told = false;
                }
                Err(_) => {
                    gaps += 1;
                    told = true;
                }
            }
        }
        sending.await.unwrap();
        breaking.abort();
        assert!(next == 500 || told, "the end is missing, untold");
        assert!(gaps > 3 && missed > 10, "{gaps} gaps, {missed} missed");
    });
}

/// A request that comes while there is no connection goes out with the next one, as it was.
#[test]
fn a_call_without_a_connection_waits_for_the_next() {
    paused().block_on(async {
        let name = unique("seeded");
        let bus = Bus::named(&name);
        let url = format!("memory://{name}");
        let server = Node::connect(&url).await.unwrap();
        server.serve(WorkServer::new(Keeper::default())).await.unwrap();
        bus.set_faults(MemoryFaults::seed(5).disconnect(0.5, Duration::from_millis(400)));
        let client = Node::connect(&url).await.unwrap();
        let work = WorkClient::new(&client);
        let mut waited = 0;
        for id in 0..50 {
            let begun = tokio::time::Instant::now();
            match work.work(id, id + 1, 0).await {
                Ok(answer) => {
                    assert_eq!(answer, (id, id + 1));
                    waited += usize::from(begun.elapsed() > Duration::ZERO);
                }
                // The connection went while the reply was awaited.
                Err(error) => assert_eq!(error.execution(), Execution::MayHaveRun, "{error}"),
            }
            // A connection that is to go goes now.
            tokio::task::yield_now().await;
        }
        assert!(waited > 5, "{waited} calls waited for a connection");
    });
}
