//! How many messages a consumer of several queues takes.
//!
//! The broker can count over all queues of a channel, so that no message is taken without a permit for it. That costs
//! it a question to another of its processes for every message, a good part of what a message costs in all. Without it
//! each queue has its own count, and what is taken over the permits waits here, where no other server can get it.
//!
//! So the common count is lifted while requests are handled so quickly that none of them waits here for long, and set
//! again as soon as one does, or when they become rare.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::BasicQosOptions;
use tokio::time::Instant;

use super::wire::Channel;

/// Handling is quick when a request holds its permit for no longer than this in the mean.
const QUICK: Duration = Duration::from_millis(25);
/// It is looked at over so many requests for each permit.
const ROUNDS: u32 = 4;

/// The common count of a channel.
pub(super) struct SharedCount {
    channel: Channel,
    prefetch: u16,
    pace: Pace,
    /// Lifted whatever the pace is.
    suspended: bool,
}

impl SharedCount {
    /// Of a channel on which it is set.
    pub(super) fn new(channel: &Channel, prefetch: u16) -> Self {
        Self {
            channel: channel.clone(),
            prefetch,
            pace: Pace::new(prefetch, Instant::now()),
            suspended: false,
        }
    }

    /// Lifts it until it is told otherwise, or sets it again.
    pub(super) fn suspend(&mut self, suspended: bool) {
        self.suspended = suspended;
        self.pace = Pace::new(self.prefetch, Instant::now());
        self.set(!suspended);
    }

    /// A request was taken, and waited here for so long.
    pub(super) fn taken(&mut self, waited: Duration) {
        if self.suspended {
            return;
        }
        if let Some(lift) = self.pace.taken(waited, Instant::now()) {
            self.set(!lift);
        }
    }

    fn set(&self, counts: bool) {
        let prefetch = if counts { self.prefetch } else { 0 };
        // The first poll hands it over. A channel on which it can't be changed is gone.
        let _ = self
            .channel
            .basic_qos(prefetch, BasicQosOptions { global: true })
            .now_or_never();
    }
}

/// Decides.
struct Pace {
    window: u32,
    lifted: bool,
    taken: u32,
    since: Instant,
}

impl Pace {
    fn new(prefetch: u16, now: Instant) -> Self {
        Self {
            window: u32::from(prefetch) * ROUNDS,
            lifted: false,
            taken: 0,
            since: now,
        }
    }

    /// Whether to lift the count or to set it again, if it is to be changed.
    fn taken(&mut self, waited: Duration, now: Instant) -> Option<bool> {
        self.taken += 1;
        let elapsed = now.duration_since(self.since);
        let slow = waited > QUICK || elapsed > QUICK * ROUNDS;
        if !slow && self.taken < self.window {
            return None;
        }
        self.taken = 0;
        self.since = now;
        (self.lifted == slow).then(|| {
            self.lifted = !slow;
            self.lifted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_lifted_only_while_requests_are_handled_quickly() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(2, start);
        let none = Duration::ZERO;
        for taken in 1..8 {
            assert_eq!(pace.taken(none, at(taken)), None);
        }
        assert_eq!(pace.taken(none, at(8)), Some(true));
        assert_eq!(pace.taken(none, at(9)), None);
        assert_eq!(pace.taken(QUICK * 2, at(60)), Some(false), "one waited");
        for taken in 0..7 {
            assert_eq!(pace.taken(none, at(60 + taken)), None);
        }
        assert_eq!(pace.taken(none, at(70)), Some(true));
        assert_eq!(pace.taken(none, at(1000)), Some(false), "they are rare");
        assert_eq!(pace.taken(QUICK * 2, at(1001)), None, "it is set already");
        for taken in 1..40 {
            let slow = pace.taken(none, at(1001 + 20 * taken));
            assert_eq!(slow, None, "each holds its permit for 40 ms");
        }
    }
}
