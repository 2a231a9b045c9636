//! What waits for the members of a group. The crate `commlib-model` runs this file in every order in which members and
//! publishers can come to it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::Notify;

/// See the [module](self).
pub(super) struct Items<T> {
    queue: Mutex<VecDeque<T>>,
    arrived: Notify,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Notify::default(),
        }
    }
}

impl<T> Items<T> {
    /// Adds one as the last.
    pub(super) fn push(&self, item: T) {
        self.queue.lock().push_back(item);
        self.arrived.notify_one();
    }

    /// Adds one as the first.
    pub(super) fn push_first(&self, item: T) {
        self.queue.lock().push_front(item);
        self.arrived.notify_one();
    }

    /// Adds one as the last of no more than so many. Returns whether the first one had to go for it.
    pub(super) fn push_within(&self, limit: usize, item: T) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.len() >= limit;
        if full {
            queue.pop_front();
        }
        queue.push_back(item);
        drop(queue);
        self.arrived.notify_one();
        full
    }

    /// Takes the first. Dropping the future loses nothing.
    pub(super) async fn next(&self) -> T {
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
    async fn who_is_behind_keeps_the_newest_and_what_comes_back_is_first() {
        let items = Items::default();
        for number in 1..=3 {
            assert!(!items.push_within(3, number), "{number}");
        }
        assert!(items.push_within(3, 4));
        assert_eq!(items.next().await, 2);
        // There is room for one again.
        assert!(!items.push_within(3, 5));
        assert!(items.push_within(3, 6));
        items.push(7);
        items.push_first(1);
        for number in [1, 4, 5, 6, 7] {
            assert_eq!(items.next().await, number);
        }
    }
}
