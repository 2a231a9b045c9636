//! The bounded buffer between a transport and a subscriber: lets publishers that can wait do so for a reader that is
//! behind, then drops the oldest and says how many.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::transport::{TopicMessage, TopicSink};

/// What comes out.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all items are messages, and none is stored in this form"
)]
pub(super) enum Item {
    Message(TopicMessage),
    /// So many messages were dropped here.
    Lagged(u64),
    /// Messages may have been missed.
    Gap,
}

/// How long a publisher waits for a reader that is behind, until that has caught up again: longer than a busy machine
/// keeps a task from running, and so short that one who waits for itself hardly notices.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many messages a reader takes at once at most, and which part of the buffer.
const BATCH: (usize, usize) = (64, 64);

/// The buffer. Its reader takes messages through a [`Reader`].
pub(super) struct Buffer {
    state: Mutex<State>,
    limit: usize,
    /// So many messages make the reader one that is behind.
    high: usize,
    /// So few mean that it has caught up.
    low: usize,
    /// Whether a publisher that can wait should. Written with the state locked.
    behind: AtomicBool,
    /// For those who wait until the reader is no longer behind.
    caught_up: Notify,
}

struct State {
    items: VecDeque<TopicMessage>,
    lagged: u64,
    /// After how many of the items the gap is.
    gap: Option<usize>,
    closed: bool,
    /// A publisher waited in vain: none does again before the reader has caught up.
    given_up: bool,
    waker: Option<Waker>,
}

impl Buffer {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let limit = limit.max(1);
        let state = State {
            items: VecDeque::new(),
            lagged: 0,
            gap: None,
            closed: false,
            given_up: false,
            waker: None,
        };
        let high = limit.div_ceil(2);
        Arc::new(Self {
            state: Mutex::new(state),
            limit,
            high,
            low: high - (limit / 8).max(1),
            behind: AtomicBool::new(false),
            caught_up: Notify::new(),
        })
    }

    /// Ends the stream after what is in the buffer.
    pub(super) fn close(&self) {
        self.change(|state| {
            state.closed = true;
            self.behind.store(false, Ordering::Relaxed);
        });
        self.caught_up.notify_waiters();
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nobody waits any more, until the reader has caught up.
    fn give_up(&self) {
        let mut state = self.state.lock();
        state.given_up = true;
        self.behind.store(false, Ordering::Relaxed);
        drop(state);
        self.caught_up.notify_waiters();
    }

    /// Takes what is next, and of messages several: the first, and the others for later.
    fn poll_take(&self, later: &mut VecDeque<TopicMessage>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.state.lock();
        if state.lagged > 0 {
            return Poll::Ready(Some(Item::Lagged(std::mem::take(&mut state.lagged))));
        }
        if state.gap == Some(0) {
            state.gap = None;
            return Poll::Ready(Some(Item::Gap));
        }
        if let Some(message) = state.items.pop_front() {
            let (most, part) = BATCH;
            let more = (self.limit / part).min(most).saturating_sub(1);
            let before_gap = state.gap.map_or(usize::MAX, |after| after - 1);
            let more = more.min(state.items.len()).min(before_gap);
            later.extend(state.items.drain(..more));
            state.gap = state.gap.map(|after| after - 1 - more);
            self.taken(state);
            return Poll::Ready(Some(Item::Message(message)));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether that was enough for those who wait.
    fn taken(&self, mut state: MutexGuard<'_, State>) {
        if state.items.len() > self.low {
            return;
        }
        let was_given_up = std::mem::take(&mut state.given_up);
        if self.behind.swap(false, Ordering::Relaxed) || was_given_up {
            drop(state);
            self.caught_up.notify_waiters();
        }
    }
}

impl TopicSink for Buffer {
    fn message(&self, message: TopicMessage) {
        self.change(|state| {
            if state.closed {
                return;
            }
            if state.items.len() >= self.limit {
                state.items.pop_front();
                state.gap = state.gap.map(|after| after.saturating_sub(1));
                state.lagged += 1;
            }
            state.items.push_back(message);
            if state.items.len() >= self.high && !state.given_up {
                self.behind.store(true, Ordering::Relaxed);
            }
        });
    }

    fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    fn catch_up(&self) -> BoxFuture<'_, ()> {
        async {
            let mut caught_up = pin!(self.caught_up.notified());
            caught_up.as_mut().enable();
            // Without a runtime there is no timer, and nobody waits without one.
            if !self.is_behind() || Handle::try_current().is_err() {
                return;
            }
            if tokio::time::timeout(PATIENCE, caught_up).await.is_err() {
                self.give_up();
            }
        }
        .boxed()
    }

    fn gap(&self) {
        self.change(|state| state.gap = Some(state.items.len()));
    }

    fn dropped(&self, reason: &str) {
        tracing::warn!(reason, "a topic message was dropped");
        self.change(|state| state.lagged += 1);
    }
}

/// The one who reads a buffer. It takes a few messages at a time, so that the buffer is seldom locked for it.
pub(super) struct Reader {
    buffer: Arc<Buffer>,
    taken: VecDeque<TopicMessage>,
}

impl Reader {
    pub(super) fn new(buffer: Arc<Buffer>) -> Self {
        Self {
            buffer,
            taken: VecDeque::new(),
        }
    }

    pub(super) fn close(&self) {
        self.buffer.close();
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self.taken.pop_front() {
            Some(message) => Poll::Ready(Some(Item::Message(message))),
            None => self.buffer.poll_take(&mut self.taken, cx),
        }
    }

    pub(super) async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Nobody waits for one who is gone. What still comes is kept all the same until the transport knows: the messages
        // of a durable topic count as delivered once they are refused.
        self.buffer.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;

    fn message(address: &str) -> TopicMessage {
        TopicMessage {
            address: address.to_owned(),
            message: Envelope::default(),
            permit: None,
            tracked: None,
        }
    }

    fn drain(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next().now_or_never().flatten())
            .map(|item| match item {
                Item::Message(message) => message.address,
                Item::Lagged(n) => format!("lagged {n}"),
                Item::Gap => "gap".to_owned(),
            })
            .collect()
    }

    fn buffer(limit: usize) -> (Arc<Buffer>, Reader) {
        let buffer = Buffer::new(limit);
        (Arc::clone(&buffer), Reader::new(buffer))
    }

    fn fill(buffer: &Buffer, messages: usize) {
        (0..messages).for_each(|at| buffer.message(message(&at.to_string())));
    }

    #[test]
    fn drops_the_oldest_and_counts() {
        let (buffer, mut reader) = buffer(2);
        for address in ["1", "2", "3", "4", "5"] {
            buffer.message(message(address));
        }
        assert_eq!(drain(&mut reader), ["lagged 3", "4", "5"]);
        assert!(reader.next().now_or_never().is_none());
    }

    #[test]
    fn a_gap_stands_where_it_was() {
        for limit in [3, 1000] {
            let (buffer, mut reader) = buffer(limit);
            buffer.message(message("1"));
            buffer.gap();
            buffer.message(message("2"));
            assert_eq!(drain(&mut reader), ["1", "gap", "2"]);
        }
        let (buffer, mut reader) = buffer(3);
        buffer.message(message("1"));
        buffer.gap();
        for address in ["2", "3", "4", "5"] {
            buffer.message(message(address));
        }
        assert_eq!(drain(&mut reader), ["lagged 2", "gap", "3", "4", "5"]);
    }

    #[test]
    fn ends_after_what_is_left() {
        let (buffer, mut reader) = buffer(2);
        buffer.message(message("1"));
        buffer.close();
        buffer.message(message("2"));
        assert_eq!(drain(&mut reader), ["1"]);
        assert!(matches!(reader.next().now_or_never(), Some(None)));
    }

    #[test]
    fn a_reader_takes_several_and_leaves_the_rest() {
        let (buffer, mut reader) = buffer(640);
        fill(&buffer, 25);
        let _ = reader.next().now_or_never();
        assert_eq!((reader.taken.len(), buffer.state.lock().items.len()), (9, 15));
        assert_eq!(drain(&mut reader).len(), 24);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_waits_until_the_reader_has_caught_up() {
        let (buffer, mut reader) = buffer(16);
        fill(&buffer, 7);
        assert!(!buffer.is_behind());
        fill(&buffer, 1);
        let began = tokio::time::Instant::now();
        let mut waits = buffer.catch_up();
        assert!(buffer.is_behind() && futures_util::poll!(&mut waits).is_pending());
        reader.next().await;
        assert!(futures_util::poll!(&mut waits).is_pending());
        reader.next().await;
        waits.await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!buffer.is_behind());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_twice_for_a_reader_that_stands_still() {
        let (buffer, mut reader) = buffer(16);
        fill(&buffer, 8);
        let began = tokio::time::Instant::now();
        tokio::join!(buffer.catch_up(), buffer.catch_up());
        assert_eq!(began.elapsed(), PATIENCE);
        fill(&buffer, 1);
        buffer.catch_up().await;
        assert!(!buffer.is_behind() && began.elapsed() == PATIENCE);
        // It runs again: it is waited for again.
        drain(&mut reader);
        fill(&buffer, 8);
        assert!(buffer.is_behind());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_reader_that_is_gone() {
        let (buffer, reader) = buffer(16);
        fill(&buffer, 8);
        let began = tokio::time::Instant::now();
        let mut waits = buffer.catch_up();
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(reader);
        waits.await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        fill(&buffer, 100);
        assert!(!buffer.is_behind());
    }
}
