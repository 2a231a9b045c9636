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

/// Takes a time stamp for none that says more than can be, of a request that came then.
pub(super) fn check_age(meta: &mut Meta, properties: &BasicProperties, came: Instant) {
    if let Some(sent) = meta.timestamp
        && age(sent, properties, came).is_none()
    {
        tracing::debug!("the clock of a caller is behind: its request counts as just sent");
        meta.timestamp = None;
    }
}

/// How long ago a request was sent, unless it says more than can be.
fn age(sent: u64, properties: &BasicProperties, came: Instant) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_micros(sent));
    let lives = properties.expiration().as_ref();
    let lives: Option<u64> = lives.and_then(|text| text.as_str().parse().ok());
    let can_be = lives.is_none_or(|lives| {
        let lives = Duration::from_millis(lives).saturating_add(STALL);
        // Hardly any waits here.
        age <= lives || age <= lives.saturating_add(came.elapsed())
    });
    can_be.then_some(age)
}

/// Whether a request, which came then, was sent longer ago than the limit.
pub(super) fn is_older(properties: &BasicProperties, limit: Duration, came: Instant) -> bool {
    let age = sent_at(properties).and_then(|sent| age(sent, properties, came));
    age.is_some_and(|age| age > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When something came that has waited for so many seconds. The clock of this test is stopped.
    async fn came_before(seconds: u32) -> Instant {
        let came = Instant::now();
        tokio::time::advance(SECOND * seconds).await;
        came
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_impossible_is_not_believed() {
        let properties = |lives: Option<&str>| match lives {
            Some(lives) => BasicProperties::default().with_expiration(lives.into()),
            None => BasicProperties::default(),
        };
        let believed = async |age_s: u64, lives: Option<&str>, waited_s: u32| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let now = u64::try_from(now.as_micros()).unwrap();
            let mut meta = Meta {
                timestamp: Some(now - age_s * 1_000_000),
                ..Meta::default()
            };
            check_age(&mut meta, &properties(lives), came_before(waited_s).await);
            meta.timestamp.is_some()
        };
        assert!(believed(5, Some("10000"), 0).await);
        assert!(!believed(12, Some("10000"), 0).await);
        assert!(believed(12, Some("10000"), 5).await, "it may have waited here");
        assert!(!believed(3600, Some("10000"), 5).await);
        assert!(believed(3600, None, 0).await, "the broker does not drop it");
        assert!(believed(3600, Some("soon"), 0).await);
    }

    #[tokio::test(start_paused = true)]
    async fn older_is_what_was_sent_earlier_by_a_clock_that_can_be_believed() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let sent = |before: Duration, lives: &str| {
            let sent = u64::try_from((now - before).as_micros()).unwrap();
            BasicProperties::default()
                .with_timestamp(sent)
                .with_expiration(lives.into())
        };
        let limit = 10 * SECOND;
        assert!(is_older(&sent(20 * SECOND, "60000"), limit, came_before(0).await));
        assert!(!is_older(&sent(SECOND, "60000"), limit, came_before(0).await));
        assert!(!is_older(&sent(20 * SECOND, "5000"), limit, came_before(0).await));
        assert!(is_older(&sent(20 * SECOND, "5000"), limit, came_before(15).await));
        assert!(!is_older(
            &BasicProperties::default(),
            limit,
            came_before(0).await
        ));
    }
}
