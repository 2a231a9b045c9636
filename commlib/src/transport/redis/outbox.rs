//! Replies on their way out.
//!
//! Handlers that are quick finish before the consumer pops again: their replies go out on its connection, in the same
//! write as the next pop, so that a batch costs one write and the broker one wake-up. The replies of slow handlers go
//! to the writer.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::encode::GROUP_BYTES;
use super::handle::Handle;
use super::jobs::Job;
use super::words::Words;
use crate::envelope::Encoded;

/// Bytes of replies that go along with a pop; more would hold it up.
const MOST: usize = 1024 * 1024;

/// Among so many of the latest rows, the one of a reply list is looked for.
const RECENT: usize = 16;

/// Replies on their way to one list.
pub(super) struct Replies {
    pub(super) list: String,
    /// The replies.
    pub(super) words: Words,
    pub(super) count: usize,
    /// When the first of them was given.
    pub(super) since: Instant,
    /// Released when the broker has the replies.
    pub(super) permits: Option<OwnedSemaphorePermit>,
}

impl Replies {
    pub(super) fn new(list: String, item: Encoded, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self::with_room(0, list, item, permit)
    }

    /// With room for about so many bytes.
    fn with_room(bytes: usize, list: String, item: Encoded, permit: Option<OwnedSemaphorePermit>) -> Self {
        let mut replies = Self {
            list,
            words: Words::with_room(bytes),
            count: 0,
            since: Instant::now(),
            permits: None,
        };
        replies.add(item, permit);
        replies
    }

    fn add(&mut self, item: Encoded, permit: Option<OwnedSemaphorePermit>) {
        self.words.add(item);
        self.count += 1;
        merge(&mut self.permits, permit);
    }
}

/// Adds permits of the same consumer.
pub(super) fn merge(permits: &mut Option<OwnedSemaphorePermit>, more: Option<OwnedSemaphorePermit>) {
    match (permits, more) {
        (Some(permits), Some(more)) => permits.merge(more),
        (permits, more @ Some(_)) => *permits = more,
        (_, None) => {}
    }
}

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
    replies: Vec<Replies>,
    bytes: usize,
    /// How many bytes the largest row had when they were taken last: the first of the next is likely to be as large.
    room: usize,
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
    pub(super) fn close(&self) -> Vec<Replies> {
        let mut collected = self.collected.lock();
        collected.open = false;
        collected.bytes = 0;
        let replies = std::mem::take(&mut collected.replies);
        collected.room = replies.iter().map(|row| row.words.len()).max().unwrap_or(0);
        replies
    }

    /// A request of a batch was answered.
    pub(super) fn reply(
        &self,
        batch: u64,
        list: String,
        item: Encoded,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let mut collected = self.collected.lock();
        collected.finished(batch);
        if !collected.open || collected.bytes + item.len() > MOST {
            drop(collected);
            return self.handle.queue(Job::Replies(Replies::new(list, item, permit)));
        }
        collected.bytes += item.len();
        let room = if collected.replies.is_empty() {
            collected.room
        } else {
            0
        };
        let mut recent = collected.replies.iter_mut().rev().take(RECENT);
        match recent.find(|row| row.list == list && row.words.len() < GROUP_BYTES) {
            Some(row) => row.add(item, permit),
            None => collected
                .replies
                .push(Replies::with_room(room, list, item, permit)),
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
    use super::*;

    /// Answers a request of a batch with half of what goes along.
    fn reply(outbox: &Outbox, batch: u64, list: &str) {
        outbox.reply(batch, list.to_owned(), vec![0; MOST / 2].into(), None);
    }

    #[test]
    fn replies_in_time_go_along_and_others_to_the_writer() {
        let (handle, mut jobs) = Handle::new();
        let outbox = Outbox::new(handle);
        reply(&outbox, 0, "a");
        assert!(matches!(jobs.try_recv(), Ok(Job::Replies(_))));
        let first = outbox.open(2);
        outbox.finished(first);
        reply(&outbox, first, "a");
        assert_eq!((outbox.left(), outbox.close().len()), (0, 1));
        assert!(jobs.try_recv().is_err());
        let second = outbox.open(4);
        // The one of an earlier batch is taken along, but does not count for this one.
        reply(&outbox, first, "a");
        reply(&outbox, second, "b");
        reply(&outbox, second, "b");
        assert!(matches!(jobs.try_recv(), Ok(Job::Replies(_))), "too much at once");
        assert_eq!((outbox.left(), outbox.close().len()), (2, 2));
        reply(&outbox, second, "b");
        assert!(matches!(jobs.try_recv(), Ok(Job::Replies(_))));
    }

    #[test]
    fn replies_to_one_list_are_one_row() {
        let (handle, _jobs) = Handle::new();
        let outbox = Outbox::new(handle);
        let permits = Arc::new(tokio::sync::Semaphore::new(3));
        let batch = outbox.open(3);
        for (list, item) in [("a", b"1"), ("b", b"2"), ("a", b"3")] {
            let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
            outbox.reply(batch, list.to_owned(), item.to_vec().into(), Some(permit));
        }
        let rows = outbox.close();
        let seen: Vec<_> = rows.iter().map(|row| (row.list.as_str(), row.count)).collect();
        assert_eq!(seen, [("a", 2), ("b", 1)]);
        let mut words = Vec::new();
        rows[0].words.write(&mut words);
        assert_eq!(words, b"$1\r\n1\r\n$1\r\n3\r\n");
        let held = |row: &Replies| row.permits.as_ref().unwrap().num_permits();
        assert_eq!(
            (held(&rows[0]), held(&rows[1]), permits.available_permits()),
            (2, 1, 0)
        );
        drop(rows);
        assert_eq!(permits.available_permits(), 3);
    }
}
