//! The broker's clock, which all peers share: what is sent is stamped with it, what is received is turned back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::resp::Value;
use crate::envelope::Meta;

/// How far the broker's clock is ahead of this host's, in µs. Unknown is taken for none.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicI64);

impl Clock {
    /// Takes in the answer of `TIME` to a question asked `round_trip` ago.
    pub(super) fn set(&self, answer: &Value, round_trip: Duration) {
        let Value::Array(parts) = answer else { return };
        let mut parts = parts
            .iter()
            .map(|part| part.as_str().and_then(|text| text.parse::<i64>().ok()));
        if let (Some(Some(seconds)), Some(Some(micros))) = (parts.next(), parts.next()) {
            let broker = seconds.saturating_mul(1_000_000).saturating_add(micros);
            let asked_ago = i64::try_from(round_trip.as_micros() / 2).unwrap_or(0);
            self.0.store(
                broker.saturating_sub(local_micros().saturating_sub(asked_ago)),
                Ordering::Relaxed,
            );
        }
    }

    /// A local time in the broker's terms.
    pub(super) fn to_broker(&self, local: u64) -> u64 {
        local.saturating_add_signed(self.0.load(Ordering::Relaxed))
    }

    /// A time of the broker in local terms.
    pub(super) fn to_local(&self, broker: u64) -> u64 {
        broker.saturating_add_signed(self.0.load(Ordering::Relaxed).saturating_neg())
    }

    /// Turns the time of a message that is sent.
    pub(super) fn stamp(&self, meta: &mut Meta) {
        meta.timestamp = meta.timestamp.map(|time| self.to_broker(time));
    }

    /// Turns the time of a message that was received.
    pub(super) fn read(&self, meta: &mut Meta) {
        meta.timestamp = meta.timestamp.map(|time| self.to_local(time));
    }

    /// The time now, in the broker's terms.
    pub(super) fn now(&self) -> u64 {
        self.to_broker(u64::try_from(local_micros()).unwrap_or(0))
    }

    /// How long ago a time of the broker is; nothing if it is to come.
    pub(super) fn since(&self, broker: u64) -> Duration {
        Duration::from_micros(self.now().saturating_sub(broker))
    }
}

fn local_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(micros: i64) -> Value {
        let text = |number: i64| Value::Bulk(number.to_string().into());
        Value::Array(vec![text(micros / 1_000_000), text(micros % 1_000_000)])
    }

    #[test]
    fn there_and_back_is_the_same_time() {
        for ahead in [-3_600_000_000, 0, 3_600_000_000] {
            let clock = Clock::default();
            clock.set(&time(local_micros() + ahead), Duration::ZERO);
            let now = u64::try_from(local_micros()).unwrap();
            assert_eq!(clock.to_local(clock.to_broker(now)), now);
            let off = clock.to_broker(now).abs_diff(now.saturating_add_signed(ahead));
            assert!(off < 1_000_000, "{off} µs off");
            assert!(clock.since(clock.to_broker(now)) < Duration::from_secs(1));
        }
    }

    #[test]
    fn nonsense_changes_nothing() {
        let clock = Clock::default();
        for answer in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1), Value::Nil]),
        ] {
            clock.set(&answer, Duration::ZERO);
        }
        clock.set(&time(i64::MAX), Duration::MAX);
        assert_eq!(Clock::default().to_broker(5), 5);
        clock.to_broker(u64::MAX);
        clock.to_local(0);
    }
}
