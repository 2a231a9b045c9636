//! Acknowledges what a channel delivered, many deliveries with one frame where that is possible.
//!
//! The broker counts the deliveries of a channel, and an acknowledgement can cover every one up to a number. So those
//! that are done are remembered here, and the longest row of them without a hole is acknowledged at once. What is done
//! behind a hole (a request that still runs) is acknowledged by itself, as it would else hold up others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::Channel;

/// What is known of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not seen yet, or being handled.
    Open,
    /// To be acknowledged.
    Done,
    /// The broker was told.
    Told,
}

/// The deliveries of a channel.
#[derive(Debug)]
pub(super) struct Acks {
    channel: Channel,
    tags: Mutex<Tags>,
    /// Nobody else takes from its queues: what is given back goes to nobody.
    last: AtomicBool,
    settled: CancellationToken,
    _settled: DropGuard,
}

/// Their states from the first one that the broker was not told of.
#[derive(Debug)]
struct Tags {
    first: u64,
    states: VecDeque<State>,
}

impl Tags {
    fn new() -> Self {
        Self {
            first: 1,
            states: VecDeque::new(),
        }
    }

    fn set(&mut self, tag: u64, state: State) {
        let Some(at) = tag
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return;
        };
        if at >= self.states.len() {
            self.states.resize(at + 1, State::Open);
        }
        if let Some(slot) = self.states.get_mut(at) {
            *slot = state;
        }
    }

    /// The delivery up to which all can be acknowledged. It is one that was not yet, as the broker takes no other.
    fn row(&mut self) -> Option<u64> {
        let mut last = None;
        while let Some(state) = self.states.front().filter(|state| **state != State::Open) {
            if *state == State::Done {
                last = Some(self.first);
            }
            self.first += 1;
            self.states.pop_front();
        }
        last
    }

    /// Those that are done behind a hole.
    fn stragglers(&mut self) -> impl Iterator<Item = u64> {
        let first = self.first;
        let done = (first..)
            .zip(self.states.iter_mut())
            .filter(|(_, state)| **state == State::Done);
        done.map(|(tag, state)| {
            *state = State::Told;
            tag
        })
    }
}

impl Acks {
    pub(super) fn new(channel: Channel) -> Arc<Self> {
        let settled = CancellationToken::new();
        Arc::new(Self {
            channel,
            tags: Mutex::new(Tags::new()),
            last: AtomicBool::new(false),
            _settled: settled.clone().drop_guard(),
            settled,
        })
    }

    /// Cancelled when nothing of the channel is open any more, and nobody holds this.
    pub(super) fn settled(&self) -> CancellationToken {
        self.settled.clone()
    }

    /// From now on nobody takes from the queues of this channel.
    pub(super) fn set_last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the channel is gone: then the broker has given what is open to another consumer.
    pub(super) fn is_gone(&self) -> bool {
        !self.channel.is_open()
    }

    /// Tells the broker of all that are done. The lock is kept meanwhile, as the broker takes no acknowledgement of what
    /// an overtaking one covered.
    pub(super) fn flush(&self) {
        let mut tags = self.tags.lock();
        if let Some(tag) = tags.row() {
            self.channel.ack(tag, true);
        }
        for tag in tags.stragglers() {
            self.channel.ack(tag, false);
        }
    }

    fn give_back(&self, tag: u64) {
        let mut tags = self.tags.lock();
        tags.set(tag, State::Told);
        self.channel.give_back(tag);
    }
}

/// A delivery that the broker waits to hear about. Dropping it gives the message back.
#[derive(Debug)]
pub(super) struct Unsettled {
    acks: Option<Arc<Acks>>,
    tag: u64,
}

impl Unsettled {
    pub(super) fn new(acks: &Arc<Acks>, tag: u64) -> Self {
        Self {
            acks: Some(Arc::clone(acks)),
            tag,
        }
    }

    /// Whether nobody would get it if it were given back.
    pub(super) fn is_last(&self) -> bool {
        let acks = self.acks.as_ref();
        acks.is_some_and(|acks| acks.last.load(Ordering::Relaxed))
    }

    /// It was handled.
    pub(super) fn done(mut self) -> Done {
        Done {
            acks: self.acks.take(),
            tag: self.tag,
        }
    }

    pub(super) fn acknowledge(self) {
        drop(self.done());
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(acks) = self.acks.take() {
            acks.give_back(self.tag);
        }
    }
}

/// A delivery that was handled. Dropping it acknowledges it.
#[derive(Debug)]
pub(super) struct Done {
    acks: Option<Arc<Acks>>,
    tag: u64,
}

impl Done {
    /// Leaves it to the caller to [flush](Acks::flush) what is returned, together with others.
    pub(super) fn later(mut self) -> Option<Arc<Acks>> {
        let acks = self.acks.take()?;
        acks.tags.lock().set(self.tag, State::Done);
        Some(acks)
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(acks) = self.acks.take() {
            acks.tags.lock().set(self.tag, State::Done);
            acks.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_covers_a_row_and_never_what_is_open() {
        let mut tags = Tags::new();
        for tag in [2, 1, 5, 3] {
            tags.set(tag, State::Done);
        }
        assert_eq!(tags.row(), Some(3));
        assert_eq!(tags.stragglers().collect::<Vec<_>>(), [5]);
        assert_eq!((tags.row(), tags.stragglers().count()), (None, 0));
        tags.set(6, State::Done);
        tags.set(4, State::Done);
        // 5 was told of before, and is covered once more.
        assert_eq!(tags.row(), Some(6));
        assert!(tags.states.is_empty());
    }

    #[test]
    fn the_last_of_a_row_is_one_that_the_broker_still_counts() {
        let mut tags = Tags::new();
        tags.set(2, State::Done);
        assert_eq!(
            (tags.row(), tags.stragglers().collect::<Vec<_>>()),
            (None, vec![2])
        );
        tags.set(1, State::Done);
        assert_eq!(tags.row(), Some(1));
        tags.set(3, State::Told);
        assert_eq!(tags.row(), None);
        tags.set(3, State::Done);
        assert_eq!(tags.row(), None);
        tags.set(4, State::Done);
        assert_eq!(tags.row(), Some(4));
    }
}
