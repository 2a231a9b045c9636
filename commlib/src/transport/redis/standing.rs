//! What is known of work queues, so that a push need not ask first.
//!
//! A script that looks before it pushes copies every item twice inside the broker. Where a queue was served and had
//! room a moment ago, its items are pushed by plain commands, with the same questions in the same transaction; the rare
//! push that should not have been is taken back.

use std::collections::HashMap;

use super::QUEUE_LIMIT;

/// So many queues are remembered.
const MOST: usize = 1024;

/// The queues that were served, and had room, when they were last pushed to on this connection.
#[derive(Default)]
pub(super) struct Standings {
    queues: HashMap<String, Standing>,
}

#[derive(Default)]
struct Standing {
    /// How long the queue was.
    length: i64,
    /// Items pushed since whose outcome is not known yet.
    sent: i64,
}

impl Standings {
    /// Whether so many items can be pushed without a look; if so, they count as sent.
    pub(super) fn send(&mut self, address: &str, count: usize) -> bool {
        let count = count_of(count);
        match self.queues.get_mut(address) {
            Some(standing) if standing.length + standing.sent + count <= QUEUE_LIMIT => {
                standing.sent += count;
                true
            }
            _ => false,
        }
    }

    /// Items were pushed, and the queue is so long now.
    pub(super) fn pushed(&mut self, address: &str, count: usize, length: i64) {
        if let Some(standing) = self.queues.get_mut(address) {
            standing.sent = standing.sent.saturating_sub(count_of(count)).max(0);
            standing.length = length;
        }
    }

    /// A script found the queue served and with room.
    pub(super) fn found_good(&mut self, address: &str) {
        if self.queues.len() >= MOST {
            self.queues.clear();
        }
        if !self.queues.contains_key(address) {
            self.queues.insert(address.to_owned(), Standing::default());
        }
    }

    /// It is not, or nobody knows.
    pub(super) fn forget(&mut self, address: &str) {
        self.queues.remove(address);
    }
}

fn count_of(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_counts_for_the_limit() {
        let mut standings = Standings::default();
        let half = usize::try_from(QUEUE_LIMIT / 2).unwrap();
        assert!(!standings.send("a", 1));
        standings.found_good("a");
        assert!(standings.send("a", half));
        assert!(standings.send("a", half));
        assert!(!standings.send("a", 1));
        standings.pushed("a", half, 7);
        assert!(!standings.send("a", half));
        standings.pushed("a", half, 7);
        assert!(standings.send("a", half));
        standings.forget("a");
        assert!(!standings.send("a", 1));
    }

    #[test]
    fn is_bounded() {
        let mut standings = Standings::default();
        for index in 0..10 * MOST {
            standings.found_good(&index.to_string());
        }
        assert!(standings.queues.len() <= MOST);
    }
}
