//! The messages of a group that no member has taken yet. The crate `commlib-model` runs this file in every order in which
//! members and publishers can come to it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::Notify;
use crate::envelope::{Envelope, Malformed};

/// How many messages a group keeps while its members are busy.
const LIMIT: usize = 10_000;

/// A message, or why it is none.
pub(super) type Decoded = Result<Envelope, Malformed>;

/// See the [module](self).
#[derive(Default)]
pub(super) struct GroupItems {
    queue: Mutex<VecDeque<(String, Decoded)>>,
    arrived: Notify,
}

impl GroupItems {
    /// Adds one. Returns whether the oldest one had to go for it.
    pub(super) fn push(&self, address: String, message: Decoded) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.len() >= LIMIT;
        if full {
            queue.pop_front();
        }
        queue.push_back((address, message));
        drop(queue);
        self.arrived.notify_one();
        full
    }

    /// Takes one. Dropping the future loses nothing.
    pub(super) async fn next(&self) -> (String, Decoded) {
        loop {
            if let Some(item) = self.queue.lock().pop_front() {
                // Notifications don't add up, so whoever takes one of several wakes the next taker.
                self.arrived.notify_one();
                return item;
            }
            // A notification without a waiter is kept, so none is missed between the look and the wait.
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_that_is_behind_keeps_the_newest() {
        let items = GroupItems::default();
        for number in 1..=LIMIT {
            assert!(
                !items.push(number.to_string(), Ok(Envelope::default())),
                "{number}"
            );
        }
        assert!(items.push("one more".into(), Ok(Envelope::default())));
        assert_eq!(items.next().await.0, "2");
        // There is room for one again.
        assert!(!items.push("and one".into(), Ok(Envelope::default())));
        assert!(items.push("and two".into(), Ok(Envelope::default())));
        assert_eq!(items.next().await.0, "4");
    }
}
