//! What may happen to calls at once, and what must hold however it is interleaved.
//!
//! A call is *sent* from its registration on, and ends in one of these states: *replied*, *failed* (its connection was
//! lost), *timed out* or *cancelled* (both give up the slot; only the first heard that the deadline is near). For each
//! scenario and every order of events:
//!
//! - a call ends once: whoever comes first decides, and what comes later changes nothing;
//! - a reply reaches the call whose id it bears, or nobody;
//! - a reply that reaches nobody is counted;
//! - a call that waits is woken by what ends it, and by a look at the deadlines that finds its own near;
//! - in the end the table is empty.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use commlib::envelope::Envelope;
use commlib::transport::{ReplySink, TransportError, TransportErrorKind};
use loom::future::block_on;
use loom::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::pending::{Outcome, Pending, PendingCall, Progress};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Replied,
    Failed,
    /// Nothing came: the slot was given up.
    GaveUp,
}

/// A table whose calls belong to a runtime that never runs: no deadline is looked at unless the scenario does.
struct World {
    table: Arc<Pending>,
    runtime: Runtime,
    begin: Instant,
}

/// Runs a scenario in every order, with the runtime of its world entered.
fn explore(scenario: impl Fn(World) + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // Threads of a scenario come to a handful of locks each; this is more than any order needs.
    model.max_branches = 10_000;
    let orders = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&orders);
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        // All threads of a model are one of the operating system, so this holds for all of them.
        let handle = runtime.handle().clone();
        let _entered = handle.enter();
        scenario(World {
            table: Pending::new(8, handle.clone()),
            begin: Instant::now(),
            runtime,
        });
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

impl World {
    /// A call whose deadline is far.
    fn register(&self) -> PendingCall {
        register(&self.table, self.begin)
    }
}

fn register(table: &Arc<Pending>, begin: Instant) -> PendingCall {
    table.register(begin + FAR, FAR).expect("the table has room")
}

const FAR: Duration = Duration::from_secs(10);

/// An answer that tells whose it is.
fn answer(id: &str) -> Envelope {
    Envelope {
        data: Bytes::copy_from_slice(id.as_bytes()),
        ..Envelope::default()
    }
}

/// Replies come in, one after the other.
fn reply<const N: usize>(table: &Arc<Pending>, calls: [&PendingCall; N]) -> JoinHandle<()> {
    let (table, ids) = (Arc::clone(table), calls.map(|call| call.id().text()));
    thread::spawn(move || {
        for id in ids {
            table.reply(&id, answer(&id));
        }
    })
}

/// The connection is lost.
fn lose(table: &Arc<Pending>) -> JoinHandle<()> {
    let table = Arc::clone(table);
    thread::spawn(move || {
        table.lost(TransportError::may_have_run(
            TransportErrorKind::Disconnected,
            "cut",
        ));
    })
}

fn end(call: &PendingCall, outcome: Outcome) -> End {
    match outcome {
        Outcome::Reply(reply) => {
            assert!(
                call.id().is(str::from_utf8(&reply.data).unwrap()),
                "a foreign reply"
            );
            End::Replied
        }
        Outcome::Failed(_) => End::Failed,
        Outcome::Malformed(error) => panic!("nobody said so: {error}"),
    }
}

/// Waits until something ends the call, or until its deadline is near: then it gives up, as at the deadline.
fn wait(table: &Pending, call: &PendingCall) -> End {
    block_on(poll_fn(|cx| match table.poll(call, cx) {
        Progress::Done(outcome) => Poll::Ready(end(call, outcome)),
        Progress::Waiting => Poll::Pending,
        Progress::Near => {
            table.release(call);
            Poll::Ready(End::GaveUp)
        }
    }))
}

/// Looks once, then gives up: a call that is dropped, or whose deadline has come.
fn look_and_give_up(table: &Pending, call: &PendingCall) -> End {
    match table.poll(call, &Context::from_waker(Waker::noop())) {
        Progress::Done(outcome) => end(call, outcome),
        Progress::Waiting | Progress::Near => {
            table.release(call);
            End::GaveUp
        }
    }
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A call is answered, perhaps twice, while the connection is lost.
pub fn replies_and_a_loss() {
    explore(|world| {
        let table = &world.table;
        let call = world.register();
        let threads = [reply(table, [&call, &call]), lose(table)];
        let end = wait(table, &call);
        join(threads);
        // Of two replies to a call at most one is its end, also when both came after the loss.
        let reached = u64::from(end == End::Replied);
        assert_ne!(end, End::GaveUp);
        assert_eq!((table.strays(), table.len()), (2 - reached, 0));
    });
}

/// Of two calls, one is answered while the connection is lost.
pub fn two_calls_and_a_loss() {
    explore(|world| {
        let table = &world.table;
        let (first, second) = (world.register(), world.register());
        let threads = [reply(table, [&second]), lose(table)];
        let ends = [wait(table, &first), wait(table, &second)];
        join(threads);
        let failed = u64::from(ends[1] == End::Failed);
        assert_eq!((ends[0], table.strays(), table.len()), (End::Failed, failed, 0));
    });
}

/// A call gives up while its reply comes in; the next call takes its slot, and hears nothing of it.
pub fn a_late_reply_and_the_next_call() {
    explore(|world| {
        let table = &world.table;
        let old = world.register();
        let late = reply(table, [&old]);
        let end = look_and_give_up(table, &old);
        let next = world.register();
        assert_eq!(
            next.id().text()[..5],
            old.id().text()[..5],
            "not in the same slot"
        );
        let own = reply(table, [&next]);
        assert_eq!(wait(table, &next), End::Replied);
        join([late, own]);
        // A reply that came in just before the call gave up was in time, and is gone with the slot.
        assert!(table.strays() <= u64::from(end == End::GaveUp));
        assert_eq!(table.len(), 0);
    });
}

/// A call gives up while another waits, and the replies of both come in.
pub fn one_gives_up_beside_another() {
    explore(|world| {
        let table = &world.table;
        let (dropped, kept) = (world.register(), world.register());
        let replying = reply(table, [&dropped, &kept]);
        let own = Arc::clone(table);
        let dropping = thread::spawn(move || {
            look_and_give_up(&own, &dropped);
        });
        assert_eq!(wait(table, &kept), End::Replied);
        join([replying, dropping]);
        assert!(table.strays() <= 1);
        assert_eq!(table.len(), 0);
    });
}

/// The deadlines are looked at while a call begins to wait, and while its reply comes in.
pub fn a_deadline_and_a_reply() {
    explore(|world| {
        let table = &world.table;
        let call = world.register();
        let answering = reply(table, [&call]);
        let looking = look(table, world.begin + FAR);
        let end = wait(table, &call);
        join([answering, looking]);
        assert_ne!(end, End::Failed);
        assert!(end == End::GaveUp || table.strays() == 0);
        assert_eq!(table.len(), 0);
    });
}

/// A call whose deadline is near hears so, whatever it does while the deadlines are looked at.
pub fn a_deadline_alone() {
    explore(|world| {
        let table = &world.table;
        let call = world.register();
        let threads = [look(table, world.begin), look(table, world.begin + FAR)];
        assert_eq!(wait(table, &call), End::GaveUp);
        join(threads);
        assert_eq!(table.len(), 0);
    });
}

/// The same for a call that comes to the table while the deadlines of others are looked at: the next look finds it.
pub fn a_call_comes_while_the_deadlines_are_looked_at() {
    explore(|world| {
        let table = &world.table;
        let first = world.register();
        let looking = look(table, world.begin + FAR);
        let second = world.register();
        join([looking]);
        table.sweep(world.begin + FAR);
        for call in [first, second] {
            assert_eq!(wait(table, &call), End::GaveUp);
        }
        assert_eq!(table.len(), 0);
    });
}

/// One look at the deadlines, as of the task that watches them.
fn look(table: &Arc<Pending>, until: Instant) -> JoinHandle<()> {
    let table = Arc::clone(table);
    thread::spawn(move || {
        table.sweep(until);
    })
}

/// The watching of an idle table ends while a call comes: either it goes on, or the call begins it anew.
pub fn the_watching_ends_while_a_call_comes() {
    explore(|world| {
        let table = &world.table;
        table.release(&world.register());
        let watchers = || world.runtime.handle().metrics().num_alive_tasks();
        assert_eq!(watchers(), 1);
        let own = Arc::clone(table);
        let ended = loom::sync::Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let told = ended.clone();
        let ending = thread::spawn(move || {
            told.store(own.unwatch(), loom::sync::atomic::Ordering::SeqCst);
        });
        let call = world.register();
        join([ending]);
        // The task that ended is still counted, as nothing runs it.
        let ended = usize::from(ended.load(loom::sync::atomic::Ordering::SeqCst));
        assert_eq!(watchers() - ended, 1, "nobody watches, or two do");
        table.release(&call);
        assert_eq!(table.len(), 0);
    });
}

/// The runtime that watches the deadlines goes away while a call waits and its reply comes in.
pub fn the_runtime_goes_away() {
    explore(|world| {
        let World {
            table,
            runtime,
            begin,
        } = world;
        let call = register(&table, begin);
        let threads = [reply(&table, [&call]), thread::spawn(move || drop(runtime))];
        let end = wait(&table, &call);
        join(threads);
        assert!(end == End::GaveUp || (end, table.strays()) == (End::Replied, 0));
        assert_eq!(table.len(), 0);
    });
}

/// The same with no reply: the call hears that nobody watches.
pub fn the_runtime_goes_away_for_good() {
    explore(|world| {
        let World {
            table,
            runtime,
            begin,
        } = world;
        let calls = [register(&table, begin), register(&table, begin)];
        let going = thread::spawn(move || drop(runtime));
        assert!(calls.iter().all(|call| wait(&table, call) == End::GaveUp));
        join([going]);
        assert_eq!(table.len(), 0);
    });
}
