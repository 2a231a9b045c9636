//! The table of calls in flight: hands each reply to the call that asked for it, at most once, or to nobody.
//!
//! A call occupies a slot from before it is sent until its future ends or is dropped. Whoever comes with the slot's
//! id first (a reply, a failure, the loss of the connection) decides how the call ends; all others find nothing.
//!
//! The table also watches the deadlines. A timer per call is what a call in process would spend most of its time on,
//! and nearly all calls are answered long before it rings. So one task looks at all slots from time to time, and only a
//! call whose deadline is near gets a timer, which rings on time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use slab::Slab;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::id::CallId;
use crate::envelope::{Envelope, Malformed, WireError};
use crate::transport::{ReplySink, TransportError};

/// How often the deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(50);
/// A call whose deadline is no farther away than this has a timer of its own: two looks, so that a late one is no harm.
const NEAR: Duration = Duration::from_millis(100);
/// After so many looks at an empty table the watching ends, until there is a call again.
const IDLE_SWEEPS: u32 = 20;

/// How a call in flight ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Answer),
    Malformed(Malformed),
    Failed(TransportError),
}

/// What a caller needs of a reply: half of a message, as each is moved several times on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) data: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) error: Option<Box<WireError>>,
}

impl From<Envelope> for Answer {
    fn from(reply: Envelope) -> Self {
        Self {
            data: reply.data,
            content_type: reply.meta.content_type,
            content_encoding: reply.meta.content_encoding,
            error: reply.meta.error,
        }
    }
}

/// What a call in flight learns when it looks.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It ended.
    Done(Outcome),
    /// It waits, and will be woken.
    Waiting,
    /// As `Waiting`, and the deadline is so near that the call must watch it by itself.
    Near,
}

enum State {
    Waiting(Option<Waker>),
    Done(Outcome),
}

struct Slot {
    id: CallId,
    deadline: Instant,
    near: bool,
    state: State,
}

#[derive(Default)]
struct Table {
    slots: Slab<Slot>,
    /// No deadline that is still to be watched is earlier.
    earliest: Option<Instant>,
    watched: bool,
}

/// The table.
pub(crate) struct Pending {
    table: Mutex<Table>,
    limit: usize,
    /// How many replies and failures came for no call.
    strays: AtomicU64,
    /// Where the deadlines are watched.
    runtime: Handle,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("in_flight", &self.len())
            .field("limit", &self.limit)
            .field("strays", &self.strays())
            .finish_non_exhaustive()
    }
}

impl Pending {
    pub(crate) fn new(limit: usize, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            limit,
            strays: AtomicU64::new(0),
            runtime,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.table.lock().slots.len()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many replies and failures came for no call: too late, twice, or with an id that was made up.
    pub(crate) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// Opens a slot, or `None` when there are as many calls in flight as may be. `left`: the time to the deadline.
    pub(crate) fn register(self: &Arc<Self>, deadline: Instant, left: Duration) -> Option<PendingCall> {
        // A task of another runtime can't rely on this one: it may not run now.
        let near = left <= NEAR || !self.is_in_runtime();
        let mut table = self.table.lock();
        if table.slots.len() >= self.limit {
            return None;
        }
        let entry = table.slots.vacant_entry();
        let key = entry.key();
        let id = CallId::with_key(u32::try_from(key).ok()?);
        entry.insert(Slot {
            id,
            deadline,
            near,
            state: State::Waiting(None),
        });
        let mut watch = false;
        if !near {
            table.earliest = Some(table.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
            watch = !std::mem::replace(&mut table.watched, true);
        }
        drop(table);
        if watch {
            let watching = Watching {
                table: Arc::downgrade(self),
                needed: true,
            };
            self.runtime.spawn(watching.run().boxed());
        }
        Some(PendingCall { key, id })
    }

    /// How a call stands. With its outcome, its slot is given up.
    pub(crate) fn poll(&self, call: &PendingCall, cx: &Context<'_>) -> Progress {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(call.key) else {
            return Progress::Waiting;
        };
        match &mut slot.state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(waker) => *waker = Some(cx.waker().clone()),
            State::Done(_) => {
                let slot = table.slots.try_remove(call.key);
                drop(table);
                return match slot {
                    Some(Slot {
                        state: State::Done(outcome),
                        ..
                    }) => Progress::Done(outcome),
                    _ => Progress::Waiting,
                };
            }
        }
        if slot.near {
            Progress::Near
        } else {
            Progress::Waiting
        }
    }

    /// Gives up the slot of a call that has no outcome yet.
    pub(crate) fn release(&self, call: &PendingCall) {
        self.table.lock().slots.try_remove(call.key);
    }

    fn is_in_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    fn complete(&self, id: &str, outcome: Outcome) {
        let Some(key) = CallId::key(id) else {
            return self.stray(id);
        };
        let mut table = self.table.lock();
        let waker = match table.slots.get_mut(key as usize) {
            Some(Slot {
                id: own,
                state: state @ State::Waiting(_),
                ..
            }) if own.is(id) => match std::mem::replace(state, State::Done(outcome)) {
                State::Waiting(waker) => waker,
                State::Done(_) => None,
            },
            _ => {
                drop(table);
                return self.stray(id);
            }
        };
        drop(table);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A reply that nobody waits for: its call timed out or was dropped, or the id was made up.
    fn stray(&self, id: &str) {
        self.strays.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(id, "dropped a reply that no call waits for");
    }

    /// Wakes the calls whose deadline is near, so that they set a timer. Whether there are calls.
    pub(crate) fn sweep(&self, until: Instant) -> bool {
        let mut table = self.table.lock();
        if table.earliest.is_none_or(|earliest| earliest > until) {
            return !table.slots.is_empty();
        }
        let mut wakers = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (_, slot) in &mut table.slots {
            let State::Waiting(waker) = &mut slot.state else {
                continue;
            };
            if slot.near {
                continue;
            }
            if slot.deadline <= until {
                slot.near = true;
                wakers.extend(waker.take());
            } else {
                earliest = Some(earliest.map_or(slot.deadline, |earliest| earliest.min(slot.deadline)));
            }
        }
        table.earliest = earliest;
        let any = !table.slots.is_empty();
        drop(table);
        wakers.into_iter().for_each(Waker::wake);
        any
    }

    /// Ends the watching if there is nothing to watch.
    pub(crate) fn unwatch(&self) -> bool {
        let mut table = self.table.lock();
        table.watched = !table.slots.is_empty();
        !table.watched
    }
}

/// The task that looks at the deadlines.
struct Watching {
    table: Weak<Pending>,
    /// Whether calls rely on it.
    needed: bool,
}

impl Watching {
    async fn run(mut self) {
        let mut idle = 0;
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(pending) = self.table.upgrade() else {
                return;
            };
            idle = if pending.sweep(Instant::now() + NEAR) {
                0
            } else {
                idle + 1
            };
            if idle >= IDLE_SWEEPS && pending.unwatch() {
                self.needed = false;
                return;
            }
        }
    }
}

impl Drop for Watching {
    /// The runtime ends: from now on every call has to see to its deadline by itself.
    fn drop(&mut self) {
        let Some(pending) = self.table.upgrade().filter(|_| self.needed) else {
            return;
        };
        let mut table = pending.table.lock();
        table.watched = false;
        table.earliest = None;
        let mut wakers = Vec::new();
        for (_, slot) in &mut table.slots {
            slot.near = true;
            if let State::Waiting(waker) = &mut slot.state {
                wakers.extend(waker.take());
            }
        }
        drop(table);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl ReplySink for Pending {
    fn reply(&self, id: &str, reply: Envelope) {
        self.complete(id, Outcome::Reply(reply.into()));
    }

    fn malformed(&self, id: &str, error: Malformed) {
        self.complete(id, Outcome::Malformed(error));
    }

    fn failed(&self, id: &str, error: TransportError) {
        self.complete(id, Outcome::Failed(error));
    }

    fn lost(&self, error: TransportError) {
        let mut wakers = Vec::new();
        for (_, slot) in &mut self.table.lock().slots {
            if let State::Waiting(waker) = &mut slot.state {
                wakers.extend(waker.take());
                slot.state = State::Done(Outcome::Failed(error.clone()));
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The slot of one call in flight, held until its outcome came or [`Pending::release`].
#[derive(Debug)]
pub(crate) struct PendingCall {
    key: usize,
    id: CallId,
}

impl PendingCall {
    pub(crate) fn id(&self) -> CallId {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::transport::TransportErrorKind;

    fn table(limit: usize) -> Arc<Pending> {
        Pending::new(limit, Handle::current())
    }

    fn register(table: &Arc<Pending>) -> Option<PendingCall> {
        let left = Duration::from_secs(10);
        table.register(Instant::now() + left, left)
    }

    fn poll(table: &Pending, call: &PendingCall) -> Progress {
        table.poll(call, &Context::from_waker(Waker::noop()))
    }

    fn waits(table: &Pending, call: &PendingCall) -> bool {
        matches!(poll(table, call), Progress::Waiting)
    }

    fn is_answered(table: &Pending, call: &PendingCall, with: &str) -> bool {
        matches!(poll(table, call), Progress::Done(Outcome::Reply(reply)) if reply.data == with)
    }

    fn reply(data: &'static str) -> Envelope {
        Envelope {
            data: Bytes::from_static(data.as_bytes()),
            ..Envelope::default()
        }
    }

    #[tokio::test]
    async fn a_reply_reaches_its_call_once() {
        let table = table(10);
        let (first, second) = (register(&table).unwrap(), register(&table).unwrap());
        assert!(waits(&table, &first));
        table.reply(&second.id().text(), reply("2"));
        table.reply(&second.id().text(), reply("again"));
        table.reply("foreign", reply("x"));
        assert_eq!(table.strays(), 2);
        assert!(waits(&table, &first));
        assert!(is_answered(&table, &second, "2"));
        table.reply(&first.id().text(), reply("1"));
        assert!(is_answered(&table, &first, "1"));
        assert_eq!(table.len(), 0);
    }

    #[tokio::test]
    async fn a_late_reply_does_not_reach_the_next_call_in_the_same_slot() {
        let table = table(10);
        let dropped = register(&table).unwrap();
        let (key, old) = (dropped.key, dropped.id().text());
        table.release(&dropped);
        let next = register(&table).unwrap();
        assert_eq!(next.key, key);
        table.reply(&old, reply("late"));
        assert!(waits(&table, &next));
    }

    #[tokio::test]
    async fn a_lost_connection_ends_every_call_that_has_no_reply_yet() {
        let table = table(10);
        let (answered, waiting) = (register(&table).unwrap(), register(&table).unwrap());
        table.reply(&answered.id().text(), reply("1"));
        table.lost(TransportError::may_have_run(
            TransportErrorKind::Disconnected,
            "cut",
        ));
        assert!(is_answered(&table, &answered, "1"));
        assert!(matches!(
            poll(&table, &waiting),
            Progress::Done(Outcome::Failed(_))
        ));
    }

    #[tokio::test]
    async fn is_bounded() {
        let table = table(2);
        let calls = [register(&table), register(&table)];
        assert!(calls.iter().all(Option::is_some) && register(&table).is_none());
        table.release(calls[0].as_ref().unwrap());
        assert!(register(&table).is_some() && register(&table).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_learns_that_its_deadline_is_near() {
        let table = table(10);
        let begin = Instant::now();
        let register = |left| table.register(begin + left, left).unwrap();
        let (far, near) = (register(Duration::from_secs(5)), register(NEAR));
        assert!(waits(&table, &far) && matches!(poll(&table, &near), Progress::Near));
        let learned = std::future::poll_fn(|cx| match table.poll(&far, cx) {
            Progress::Near => Poll::Ready(Instant::now()),
            _ => Poll::Pending,
        });
        let left = begin + Duration::from_secs(5) - learned.await;
        assert!(left <= NEAR && left >= NEAR - SWEEP, "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_watching_ends_and_begins_again() {
        let table = table(10);
        for _ in 0..2 {
            table.release(&register(&table).unwrap());
            assert!(table.table.lock().watched);
            tokio::time::sleep(SWEEP * (IDLE_SWEEPS + 1)).await;
            assert!(!table.table.lock().watched);
        }
    }

    #[test]
    fn calls_see_to_their_deadlines_where_nobody_watches() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let (first, other) = (runtime(), runtime());
        let table = first.block_on(async { table(10) });
        let watched = first.block_on(async { register(&table).unwrap() });
        assert!(waits(&table, &watched));
        let foreign = other.block_on(async { register(&table).unwrap() });
        assert!(matches!(poll(&table, &foreign), Progress::Near));
        drop(first);
        assert!(matches!(poll(&table, &watched), Progress::Near));
    }
}
