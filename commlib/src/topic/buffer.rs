//! The bounded buffer between a transport and a subscriber: drops the oldest and says how many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

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
    /// Messages may have been missed while the connection was away.
    Gap,
}

/// The buffer.
pub(super) struct Buffer {
    state: Mutex<State>,
    limit: usize,
}

struct State {
    items: VecDeque<TopicMessage>,
    lagged: u64,
    /// After how many of the items the gap is.
    gap: Option<usize>,
    closed: bool,
    waker: Option<Waker>,
}

impl Buffer {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let state = State {
            items: VecDeque::new(),
            lagged: 0,
            gap: None,
            closed: false,
            waker: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            limit: limit.max(1),
        })
    }

    /// Ends the stream after what is in the buffer.
    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
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

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.state.lock();
        if state.lagged > 0 {
            return Poll::Ready(Some(Item::Lagged(std::mem::take(&mut state.lagged))));
        }
        if state.gap == Some(0) {
            state.gap = None;
            return Poll::Ready(Some(Item::Gap));
        }
        if let Some(message) = state.items.pop_front() {
            state.gap = state.gap.map(|after| after - 1);
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

    pub(super) async fn next(&self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
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
        });
    }

    fn is_behind(&self) -> bool {
        self.state.lock().items.len() > self.limit / 2
    }

    fn gap(&self) {
        self.change(|state| state.gap = Some(state.items.len()));
    }

    fn dropped(&self, reason: &str) {
        tracing::warn!(reason, "a topic message was dropped");
        self.change(|state| state.lagged += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;
    use futures_util::FutureExt;

    fn message(address: &str) -> TopicMessage {
        TopicMessage {
            address: address.to_owned(),
            message: Envelope::default(),
            permit: None,
            tracked: None,
        }
    }

    fn drain(buffer: &Buffer) -> Vec<String> {
        std::iter::from_fn(|| buffer.next().now_or_never().flatten())
            .map(|item| match item {
                Item::Message(message) => message.address,
                Item::Lagged(n) => format!("lagged {n}"),
                Item::Gap => "gap".to_owned(),
            })
            .collect()
    }

    #[test]
    fn drops_the_oldest_and_counts() {
        let buffer = Buffer::new(2);
        for address in ["1", "2", "3", "4", "5"] {
            buffer.message(message(address));
        }
        assert_eq!(drain(&buffer), ["lagged 3", "4", "5"]);
        assert!(buffer.next().now_or_never().is_none());
    }

    #[test]
    fn a_gap_stands_where_it_was() {
        let buffer = Buffer::new(3);
        buffer.message(message("1"));
        buffer.gap();
        buffer.message(message("2"));
        assert_eq!(drain(&buffer), ["1", "gap", "2"]);
        buffer.message(message("1"));
        buffer.gap();
        for address in ["2", "3", "4", "5"] {
            buffer.message(message(address));
        }
        assert_eq!(drain(&buffer), ["lagged 2", "gap", "3", "4", "5"]);
    }

    #[test]
    fn ends_after_what_is_left() {
        let buffer = Buffer::new(2);
        buffer.message(message("1"));
        buffer.close();
        buffer.message(message("2"));
        assert_eq!(drain(&buffer), ["1"]);
        assert!(matches!(buffer.next().now_or_never(), Some(None)));
    }
}
