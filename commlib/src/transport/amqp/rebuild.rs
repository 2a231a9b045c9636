//! When a consumer or subscription is built anew, and what is said about it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Core;
use super::supervisor::{Link, next_link};
use crate::transport::TransportError;
use crate::transport::backoff::Backoff;

/// A session that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(2);

/// See the [module](self).
pub(super) struct Rebuild {
    what: String,
    links: watch::Receiver<Option<Arc<Link>>>,
    backoff: Backoff,
    since: Instant,
}

impl Rebuild {
    pub(super) fn new(what: &str, core: &Core) -> Self {
        Self {
            what: what.to_owned(),
            links: core.consuming.links(),
            backoff: Backoff::new(),
            since: Instant::now(),
        }
    }

    /// Waits for a connection to build on; `None` when there will be none any more. Dropping the future loses nothing.
    pub(super) async fn next_link(&mut self) -> Option<Arc<Link>> {
        next_link(&mut self.links).await
    }

    /// It could not be built.
    pub(super) fn failed(&self, error: &TransportError) {
        tracing::warn!(what = %self.what, %error, "cannot listen; trying again");
    }

    /// It was built, and ended without being asked to.
    pub(super) fn ended(&mut self, error: Option<&lapin::Error>) {
        if self.since.elapsed() >= GOOD {
            self.backoff = Backoff::new();
        }
        match error {
            Some(error) => tracing::warn!(what = %self.what, %error, "stopped by the broker; starting again"),
            None => tracing::warn!(what = %self.what, "stopped by the broker; starting again"),
        }
    }

    /// Waits until it is time to build again.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next_delay()).await;
        self.since = Instant::now();
    }
}
