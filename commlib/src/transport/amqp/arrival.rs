//! How old a request can be, whatever the clock of its sender says.
//!
//! The broker drops what has waited in a queue for longer than its time to live. So what is delivered is no older than
//! that and the time for which it waited in this process; one that claims to be older comes from a clock that is behind
//! this one, and counts as just sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use tokio::time::Instant;

use crate::envelope::Meta;

/// How long a busy machine may take to let this process see what came.
const STALL: Duration = Duration::from_secs(1);

/// Bounds how long requests waited here before they were taken. The library does not say when they came.
pub(super) struct Wait {
    /// So many can be here at once.
    most: usize,
    taken: usize,
    /// Whatever is taken now came after the first of these; the second is to follow it.
    since: Instant,
    next: Instant,
}

impl Wait {
    /// Of a consumer that begins now, for which the broker sends so many at once.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self {
            most: most.max(1),
            taken: 0,
            since: now,
            next: now,
        }
    }

    /// Nothing waits here.
    pub(super) fn is_over(&mut self, now: Instant) {
        (self.since, self.next, self.taken) = (now, now, 0);
    }

    /// One was taken: for how long it has waited at most. When as many were taken as can be here at once, all that were
    /// here before are gone.
    pub(super) fn taken(&mut self, now: Instant) -> Duration {
        let longest = now.saturating_duration_since(self.since);
        self.taken += 1;
        if self.taken >= self.most {
            (self.since, self.next, self.taken) = (self.next, now, 0);
        }
        longest
    }
}

/// Takes a time stamp for none that says more than can be.
pub(super) fn check_age(meta: &mut Meta, properties: &BasicProperties, waited: Duration) {
    let Some(sent) = meta.timestamp else { return };
    let lives = properties.expiration().as_ref();
    let Some(lives) = lives
        .and_then(|text| text.as_str().parse().ok())
        .map(Duration::from_millis)
    else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_micros(sent));
    if age > lives.saturating_add(waited).saturating_add(STALL) {
        tracing::debug!(
            ?age,
            "the clock of a caller is behind: its request counts as just sent"
        );
        meta.timestamp = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_by_the_last_empty_moment_and_by_the_count() {
        let begin = Instant::now();
        let mut wait = Wait::new(3, begin);
        assert_eq!(wait.taken(begin + SECOND), SECOND);
        wait.is_over(begin + 5 * SECOND);
        assert_eq!(wait.taken(begin + 6 * SECOND), SECOND);
        // Never empty again: but no more than three can be here, so what is taken came after the third last was.
        let ages: Vec<_> = (7..16)
            .map(|at| wait.taken(begin + at * SECOND).as_secs())
            .collect();
        assert!(ages.iter().all(|age| *age <= 6), "{ages:?}");
        assert!(ages.iter().all(|age| *age >= 2), "{ages:?}");
    }

    #[test]
    fn only_the_impossible_is_not_believed() {
        let properties = |lives: Option<&str>| match lives {
            Some(lives) => BasicProperties::default().with_expiration(lives.into()),
            None => BasicProperties::default(),
        };
        let believed = |age_s: u64, lives: Option<&str>, waited_s: u64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let now = u64::try_from(now.as_micros()).unwrap();
            let mut meta = Meta {
                timestamp: Some(now - age_s * 1_000_000),
                ..Meta::default()
            };
            check_age(
                &mut meta,
                &properties(lives),
                SECOND * u32::try_from(waited_s).unwrap(),
            );
            meta.timestamp.is_some()
        };
        assert!(believed(5, Some("10000"), 0));
        assert!(!believed(12, Some("10000"), 0));
        assert!(believed(12, Some("10000"), 5), "it may have waited here");
        assert!(!believed(3600, Some("10000"), 5));
        assert!(believed(3600, None, 0), "the broker does not drop it");
        assert!(believed(3600, Some("soon"), 0));
    }
}
