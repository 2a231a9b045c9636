//! When a consumer or subscription is built anew, and what is said about it.

use std::time::Duration;

use tokio::time::Instant;

use super::errors;
use crate::transport::TransportError;
use crate::transport::backoff::Backoff;

/// Endings in a row by bytes that can't be parsed, after which they are taken for a message that will always do that.
const POISONED: u32 = 3;
/// How long such a consumer waits. Each of its deliveries ends the connection, and its neighbours with it.
const POISON_PAUSE: Duration = Duration::from_secs(30);
/// A session that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(2);

/// Counts how a consumer ends.
pub(super) struct Rebuild {
    what: String,
    backoff: Backoff,
    since: Instant,
    parse_failures: u32,
}

impl Rebuild {
    pub(super) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            backoff: Backoff::new(),
            since: Instant::now(),
            parse_failures: 0,
        }
    }

    /// A message came.
    pub(super) fn good(&mut self) {
        self.parse_failures = 0;
    }

    /// It could not be built.
    pub(super) fn failed(&mut self, error: &TransportError) {
        tracing::warn!(what = %self.what, %error, "cannot listen; trying again");
    }

    /// It was built, and ended without being asked to.
    pub(super) fn ended(&mut self, error: Option<&lapin::Error>) {
        if self.since.elapsed() >= GOOD {
            self.backoff = Backoff::new();
        }
        match error {
            Some(error) if errors::is_parse_failure(error) => {
                self.parse_failures += 1;
                if self.parse_failures >= POISONED {
                    tracing::error!(
                        what = %self.what,
                        "a message in this queue, or in that of another consumer, ends the connection each time it \
                         is delivered: it is not valid AMQP; purge the queue at the broker"
                    );
                }
            }
            Some(error) => tracing::warn!(what = %self.what, %error, "stopped by the broker; starting again"),
            None => tracing::warn!(what = %self.what, "stopped by the broker; starting again"),
        }
    }

    /// Waits until it is time to build again.
    pub(super) async fn pause(&mut self) {
        let delay = if self.parse_failures >= POISONED {
            POISON_PAUSE
        } else {
            self.backoff.next_delay()
        };
        tokio::time::sleep(delay).await;
        self.since = Instant::now();
    }
}
