//! When a consumer or subscription is built anew, on which connection, and what is said about it.
//!
//! A message that the client library can't parse ends the connection, with everything on it, and the broker delivers it
//! again. Nobody can tell to whom. So whoever was ended so twice in a row goes to a connection of its own: there the
//! innocent live on, and the one that is to blame ends by itself, and rests before it tries again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::supervisor::{Link, Slot, next_link};
use super::{Core, errors};
use crate::transport::TransportError;
use crate::transport::backoff::Backoff;

/// Endings in a row by bytes that can't be parsed, after which a consumer gets a connection of its own.
const SUSPECTED: u32 = 2;
/// After so many its queue is taken to hold a message that will always do that.
const POISONED: u32 = 3;
/// How long such a consumer rests.
const POISON_PAUSE: Duration = Duration::from_secs(30);
/// A session that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(2);
/// How long a connection of its own may take to close.
const CLOSE: Duration = Duration::from_secs(1);

/// Where what a consumer has not settled is kept when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is delivered again.
    AtTheBroker,
    /// A message that can't be parsed ends one connection only.
    Nowhere,
}

/// Counts how a consumer ends.
pub(super) struct Rebuild {
    what: String,
    core: Arc<Core>,
    kept: Kept,
    shared: watch::Receiver<Option<Arc<Link>>>,
    own: Option<Own>,
    backoff: Backoff,
    since: Instant,
    parse_failures: u32,
    /// What it could not be built on.
    failed: Option<Arc<Link>>,
}

/// A connection of its own.
struct Own {
    core: Arc<Core>,
    slot: Arc<Slot>,
    links: watch::Receiver<Option<Arc<Link>>>,
}

impl Own {
    fn new(core: &Arc<Core>) -> Self {
        let slot = core.own_slot();
        slot.start();
        Self {
            core: Arc::clone(core),
            links: slot.links(),
            slot,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let slot = Arc::clone(&self.slot);
        // Whoever closes the node waits for it.
        let closing = async move { slot.close(CLOSE).await };
        self.core.tasks.spawn_on(closing.boxed(), &self.core.runtime);
    }
}

impl Rebuild {
    pub(super) fn new(what: &str, core: &Arc<Core>, kept: Kept) -> Self {
        Self {
            what: what.to_owned(),
            shared: core.consuming.links(),
            core: Arc::clone(core),
            kept,
            own: None,
            backoff: Backoff::new(),
            since: Instant::now(),
            parse_failures: 0,
            failed: None,
        }
    }

    /// Waits for a connection to build on; `None` when there will be none any more. Dropping the future loses nothing.
    pub(super) async fn next_link(&mut self) -> Option<Arc<Link>> {
        if self.parse_failures < SUSPECTED {
            self.own = None;
        } else if self.own.is_none() {
            self.own = Some(Own::new(&self.core));
        }
        let links = match &mut self.own {
            Some(own) => &mut own.links,
            None => &mut self.shared,
        };
        next_link(links).await
    }

    /// A message came.
    pub(super) fn good(&mut self) {
        self.parse_failures = 0;
    }

    /// It could not be built.
    pub(super) fn failed(&mut self, error: &TransportError, link: &Arc<Link>) {
        tracing::warn!(what = %self.what, %error, "cannot listen; trying again");
        self.failed = Some(Arc::clone(link));
    }

    /// It was built, and ended without being asked to.
    pub(super) fn ended(&mut self, error: Option<&lapin::Error>) {
        if self.since.elapsed() >= GOOD {
            self.backoff = Backoff::new();
        }
        match error {
            Some(error) if errors::is_parse_failure(error) && self.kept == Kept::AtTheBroker => {
                self.ended_by_bytes();
            }
            Some(error) => tracing::warn!(what = %self.what, %error, "stopped by the broker; starting again"),
            None => tracing::warn!(what = %self.what, "stopped by the broker; starting again"),
        }
    }

    fn ended_by_bytes(&mut self) {
        self.parse_failures += 1;
        if self.parse_failures >= POISONED {
            tracing::error!(
                what = %self.what,
                "a message in this queue ends the connection each time it is delivered: it is not valid AMQP; purge the \
                 queue at the broker"
            );
        }
    }

    /// Waits until it is time to build again.
    pub(super) async fn pause(&mut self) {
        // What one of its queues holds may come while the others are not there yet.
        if let Some(link) = self.failed.take()
            && self.kept == Kept::AtTheBroker
            && link.is_unparsable().await
        {
            self.ended_by_bytes();
        }
        if self.parse_failures >= POISONED {
            let _rest = self.core.board.rests(&self.what);
            tokio::time::sleep(POISON_PAUSE).await;
        } else {
            tokio::time::sleep(self.backoff.next_delay()).await;
        }
        self.since = Instant::now();
    }
}
