//! How old a request can be, whatever the clock of its sender says.
//!
//! The broker drops what has waited in a queue for longer than its time to live. So what is delivered is no older than
//! that and the time for which it waited in this process; one that claims to be older comes from a clock that is behind
//! this one, and counts as just sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use tokio::time::Instant;

use super::properties::sent_at;
use crate::envelope::Meta;

/// How long a busy machine may take to let this process see what came.
const STALL: Duration = Duration::from_secs(1);

/// Bounds how long requests waited here before they were taken: a message does not say when it came.
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

    /// For how long the next one has waited at most.
    pub(super) fn longest(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// One was taken: for how long it has waited at most. When as many were taken as can be here at once, all that were
    /// here before are gone.
    pub(super) fn taken(&mut self, now: Instant) -> Duration {
        let longest = self.longest(now);
        self.taken += 1;
        if self.taken >= self.most {
            (self.since, self.next, self.taken) = (self.next, now, 0);
        }
        longest
    }
}

/// Takes a time stamp for none that says more than can be.
pub(super) fn check_age(meta: &mut Meta, properties: &BasicProperties, waited: Duration) {
    if let Some(sent) = meta.timestamp
        && age(sent, properties, waited).is_none()
    {
        tracing::debug!("the clock of a caller is behind: its request counts as just sent");
        meta.timestamp = None;
    }
}

/// How long ago a request was sent, unless it says more than can be.
fn age(sent: u64, properties: &BasicProperties, waited: Duration) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_micros(sent));
    let lives = properties.expiration().as_ref();
    let lives = lives
        .and_then(|text| text.as_str().parse().ok())
        .map(Duration::from_millis);
    let most = lives.map_or(Duration::MAX, |lives| {
        lives.saturating_add(waited).saturating_add(STALL)
    });
    (age <= most).then_some(age)
}

/// Whether a request, which has waited here for so long, was sent longer ago than the limit.
pub(super) fn is_older(properties: &BasicProperties, limit: Duration, waited: Duration) -> bool {
    let age = sent_at(properties).and_then(|sent| age(sent, properties, waited));
    age.is_some_and(|age| age > limit)
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

    #[test]
    fn older_is_what_was_sent_earlier_by_a_clock_that_can_be_believed() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let sent = |before: Duration, lives: &str| {
            let sent = u64::try_from((now - before).as_micros()).unwrap();
            BasicProperties::default()
                .with_timestamp(sent)
                .with_expiration(lives.into())
        };
        let limit = 10 * SECOND;
        assert!(is_older(&sent(20 * SECOND, "60000"), limit, Duration::ZERO));
        assert!(!is_older(&sent(SECOND, "60000"), limit, Duration::ZERO));
        assert!(!is_older(&sent(20 * SECOND, "5000"), limit, Duration::ZERO));
        assert!(is_older(&sent(20 * SECOND, "5000"), limit, 15 * SECOND));
        assert!(!is_older(&BasicProperties::default(), limit, Duration::ZERO));
    }
}
