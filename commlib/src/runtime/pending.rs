//! The table of calls in flight: hands each reply to the call that asked for it, at most once, or to nobody.
//!
//! A call occupies a slot from before it is sent until its future ends or is dropped. Whoever comes with the slot's
//! id first (a reply, a failure, the loss of the connection) decides how the call ends; all others find nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use slab::Slab;

use super::id;
use crate::envelope::{Envelope, Malformed};
use crate::transport::{ReplySink, TransportError};

/// How a call in flight ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Envelope),
    Malformed(Malformed),
    Failed(TransportError),
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost every reply an allocation to save memory that the limit of calls bounds"
)]
enum State {
    Waiting(Option<Waker>),
    Done(Outcome),
}

struct Slot {
    id: String,
    state: State,
}

/// The table.
pub(crate) struct Pending {
    slots: Mutex<Slab<Slot>>,
    limit: usize,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("in_flight", &self.len())
            .field("limit", &self.limit)
            .finish()
    }
}

impl Pending {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            limit,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Opens a slot, or `None` when there are as many calls in flight as may be.
    pub(crate) fn register(self: &Arc<Self>) -> Option<PendingCall> {
        let mut slots = self.slots.lock();
        if slots.len() >= self.limit {
            return None;
        }
        let entry = slots.vacant_entry();
        let key = entry.key();
        let id = id::with_key(u32::try_from(key).ok()?);
        entry.insert(Slot {
            id: id.clone(),
            state: State::Waiting(None),
        });
        Some(PendingCall {
            table: Arc::clone(self),
            key,
            id,
        })
    }

    fn complete(&self, id: &str, outcome: Outcome) {
        let Some(key) = id::key(id) else {
            return stray(id);
        };
        let mut slots = self.slots.lock();
        let waker = match slots.get_mut(key as usize) {
            Some(Slot { id: own, state }) if own == id => match state {
                State::Waiting(waker) => {
                    let waker = waker.take();
                    *state = State::Done(outcome);
                    waker
                }
                State::Done(_) => {
                    drop(slots);
                    return stray(id);
                }
            },
            _ => {
                drop(slots);
                return stray(id);
            }
        };
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A reply that nobody waits for: its call timed out or was dropped, or the id was made up.
fn stray(id: &str) {
    tracing::debug!(id, "dropped a reply that no call waits for");
}

impl ReplySink for Pending {
    fn reply(&self, id: &str, reply: Envelope) {
        self.complete(id, Outcome::Reply(reply));
    }

    fn malformed(&self, id: &str, error: Malformed) {
        self.complete(id, Outcome::Malformed(error));
    }

    fn failed(&self, id: &str, error: TransportError) {
        self.complete(id, Outcome::Failed(error));
    }

    fn lost(&self, error: TransportError) {
        let mut wakers = Vec::new();
        for (_, slot) in self.slots.lock().iter_mut() {
            if let State::Waiting(waker) = &mut slot.state {
                wakers.extend(waker.take());
                slot.state = State::Done(Outcome::Failed(error.clone()));
            }
        }
        for waker in wakers {
            waker.wake();
        }
    }
}

/// One call in flight. Dropping it gives up the slot.
pub(crate) struct PendingCall {
    table: Arc<Pending>,
    key: usize,
    id: String,
}

impl PendingCall {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl Future for PendingCall {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut slots = self.table.slots.lock();
        let Some(slot) = slots.get_mut(self.key) else {
            return Poll::Pending;
        };
        match std::mem::replace(&mut slot.state, State::Waiting(None)) {
            State::Done(outcome) => Poll::Ready(outcome),
            State::Waiting(old) => {
                let waker = match old {
                    Some(old) if old.will_wake(cx.waker()) => old,
                    _ => cx.waker().clone(),
                };
                slot.state = State::Waiting(Some(waker));
                Poll::Pending
            }
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.table.slots.lock().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use futures_util::poll;

    use super::*;
    use crate::transport::TransportErrorKind;

    fn reply(data: &'static str) -> Envelope {
        Envelope {
            data: Bytes::from_static(data.as_bytes()),
            ..Envelope::default()
        }
    }

    #[tokio::test]
    async fn a_reply_reaches_its_call_once() {
        let table = Pending::new(10);
        let (mut first, second) = (table.register().unwrap(), table.register().unwrap());
        assert!(poll!(&mut first).is_pending());
        table.reply(second.id(), reply("2"));
        table.reply(second.id(), reply("again"));
        table.reply("foreign", reply("x"));
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(second.now_or_never(), Some(Outcome::Reply(r)) if r.data == "2"));
        table.reply(first.id(), reply("1"));
        assert!(matches!(first.now_or_never(), Some(Outcome::Reply(r)) if r.data == "1"));
        assert_eq!(table.len(), 0);
    }

    #[tokio::test]
    async fn a_late_reply_does_not_reach_the_next_call_in_the_same_slot() {
        let table = Pending::new(10);
        let dropped = table.register().unwrap();
        let (key, old) = (dropped.key, dropped.id().to_owned());
        drop(dropped);
        let mut next = table.register().unwrap();
        assert_eq!(next.key, key);
        table.reply(&old, reply("late"));
        assert!(poll!(&mut next).is_pending());
    }

    #[tokio::test]
    async fn a_lost_connection_ends_every_call_that_has_no_reply_yet() {
        let table = Pending::new(10);
        let (answered, waiting) = (table.register().unwrap(), table.register().unwrap());
        table.reply(answered.id(), reply("1"));
        table.lost(TransportError::may_have_run(
            TransportErrorKind::Disconnected,
            "cut",
        ));
        assert!(matches!(answered.now_or_never(), Some(Outcome::Reply(_))));
        assert!(matches!(waiting.now_or_never(), Some(Outcome::Failed(_))));
    }

    #[test]
    fn is_bounded() {
        let table = Pending::new(2);
        let calls = [table.register(), table.register()];
        assert!(calls.iter().all(Option::is_some) && table.register().is_none());
        drop(calls);
        assert!(table.register().is_some());
    }
}
