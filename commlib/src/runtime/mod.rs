//! What all patterns share above the transports: ids, calls in flight, the scope of the work at hand.

pub(crate) mod cancel;
pub(crate) mod id;
pub(crate) mod pace;
pub(crate) mod pending;
pub(crate) mod retries;
pub(crate) mod scope;
pub(crate) mod serving;

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock in µs since 1970 UTC, as envelopes carry it.
pub(crate) fn now_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
