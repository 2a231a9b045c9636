//! Replies on their way out.
//!
//! Handlers that are quick finish before the consumer pops again: their replies go out on its connection, in the same
//! write as the next pop, so that a batch costs one write and the broker one wake-up. The replies of slow handlers go
//! to the writer.

use std::sync::Arc;

use parking_lot::Mutex;

use super::handle::Handle;
use super::jobs::{Job, Reply};

/// Bytes of replies that go along with a pop; more would hold it up.
const MOST: usize = 1024 * 1024;

/// Where the responders of one consumer leave their replies.
pub(super) struct Outbox {
    pub(super) handle: Arc<Handle>,
    collected: Mutex<Collected>,
}

#[derive(Default)]
struct Collected {
    /// Whether the consumer will take what is here soon.
    open: bool,
    /// Numbers the batches of requests that the consumer hands out.
    batch: u64,
    /// Requests of the latest batch that are not finished.
    left: usize,
    replies: Vec<Reply>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self {
            handle,
            collected: Mutex::default(),
        }
    }

    /// The consumer hands out a batch of so many requests, and takes the replies that come in time. The number of
    /// the batch.
    pub(super) fn open(&self, requests: usize) -> u64 {
        let mut collected = self.collected.lock();
        collected.open = true;
        collected.batch += 1;
        collected.left = requests;
        collected.batch
    }

    /// Requests of the latest batch that are not finished.
    pub(super) fn left(&self) -> usize {
        self.collected.lock().left
    }

    /// The consumer takes what is there; what comes later is for the writer.
    pub(super) fn close(&self) -> Vec<Reply> {
        let mut collected = self.collected.lock();
        collected.open = false;
        collected.bytes = 0;
        std::mem::take(&mut collected.replies)
    }

    /// A request of a batch was answered.
    pub(super) fn reply(&self, batch: u64, reply: Reply) {
        let mut collected = self.collected.lock();
        collected.finished(batch);
        if collected.open && collected.bytes + reply.item.len() <= MOST {
            collected.bytes += reply.item.len();
            collected.replies.push(reply);
        } else {
            drop(collected);
            self.handle.queue(Job::Reply(reply));
        }
    }

    /// A request of a batch ended without an answer.
    pub(super) fn finished(&self, batch: u64) {
        self.collected.lock().finished(batch);
    }
}

impl Collected {
    fn finished(&mut self, batch: u64) {
        if batch == self.batch {
            self.left = self.left.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn reply() -> Reply {
        Reply {
            list: String::new(),
            item: vec![0; MOST / 2],
            since: Instant::now(),
            permit: None,
        }
    }

    #[test]
    fn replies_in_time_go_along_and_others_to_the_writer() {
        let (handle, mut jobs) = Handle::new();
        let outbox = Outbox::new(handle);
        outbox.reply(0, reply());
        assert!(matches!(jobs.try_recv(), Ok(Job::Reply(_))));
        let first = outbox.open(2);
        outbox.finished(first);
        outbox.reply(first, reply());
        assert_eq!((outbox.left(), outbox.close().len()), (0, 1));
        assert!(jobs.try_recv().is_err());
        let second = outbox.open(4);
        // The one of an earlier batch is taken along, but does not count for this one.
        outbox.reply(first, reply());
        outbox.reply(second, reply());
        outbox.reply(second, reply());
        assert!(matches!(jobs.try_recv(), Ok(Job::Reply(_))), "too much at once");
        assert_eq!((outbox.left(), outbox.close().len()), (2, 2));
        outbox.reply(second, reply());
        assert!(matches!(jobs.try_recv(), Ok(Job::Reply(_))));
    }
}
