//! What is known of work queues, so that a push need not ask first.
//!
//! A script that looks before it pushes copies every item twice inside the broker. Where a queue was served and had
//! room a moment ago, its items are pushed by plain commands, with the same questions in the same transaction; the rare
//! push that should not have been is taken back.
//!
//! Most looks are short: they ask whether there is a sign of any server, which is gone as soon as the last server leaves.
//! Whether the sign still holds, as that of a server that died does not, is asked every [`LONG_LOOK`].

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::QUEUE_LIMIT;

/// So many queues are remembered.
const MOST: usize = 1024;
/// How often the times in the signs of servers are read. Servers that die are missed after seconds, whatever this is.
const LONG_LOOK: Duration = Duration::from_millis(50);

/// What a push asks about the servers of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: in the dialect of commlib-py servers leave no sign.
    Not,
    /// Whether there is a sign.
    Short,
    /// Whether it still holds.
    Long,
}

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
    /// When the last long look was written.
    looked: Option<Instant>,
}

impl Standings {
    /// Whether so many items can be pushed without a look before, and how to look at the same time; if so, they count as
    /// sent.
    pub(super) fn send(&mut self, address: &str, count: usize, now: Instant) -> Option<Look> {
        let count = count_of(count);
        let standing = self.queues.get_mut(address)?;
        if standing.length + standing.sent + count > QUEUE_LIMIT {
            return None;
        }
        standing.sent += count;
        let short = standing.looked.is_some_and(|looked| now < looked + LONG_LOOK);
        if short {
            return Some(Look::Short);
        }
        standing.looked = Some(now);
        Some(Look::Long)
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
        let now = Instant::now();
        let send = |standings: &mut Standings, count| standings.send("a", count, now).is_some();
        assert!(!send(&mut standings, 1));
        standings.found_good("a");
        assert!(send(&mut standings, half));
        assert!(send(&mut standings, half));
        assert!(!send(&mut standings, 1));
        standings.pushed("a", half, 7);
        assert!(!send(&mut standings, half));
        standings.pushed("a", half, 7);
        assert!(send(&mut standings, half));
        standings.forget("a");
        assert!(!send(&mut standings, 1));
    }

    #[test]
    fn looks_long_from_time_to_time() {
        let mut standings = Standings::default();
        let now = Instant::now();
        let mut looks = |address: &str, after: Duration| standings.send(address, 1, now + after);
        assert_eq!(looks("a", Duration::ZERO), None);
        standings.found_good("a");
        standings.found_good("b");
        let mut looks = |address: &str, after: Duration| standings.send(address, 1, now + after).unwrap();
        let before = LONG_LOOK - Duration::from_nanos(1);
        assert_eq!(looks("a", Duration::ZERO), Look::Long);
        assert_eq!(looks("a", before), Look::Short);
        assert_eq!(looks("b", before), Look::Long, "each queue by itself");
        assert_eq!(looks("a", LONG_LOOK), Look::Long);
        assert_eq!(looks("a", LONG_LOOK + before), Look::Short);
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
