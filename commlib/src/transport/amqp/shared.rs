//! What the consumers and subscriptions of a connection share with its transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::errors;
use super::publisher::Lane;
use super::supervisor::{self, Slot};
use crate::error::Execution;
use crate::transport::claims::Claims;
use crate::transport::{TransportError, TransportErrorKind, TransportOptions};

/// Takes word of whether a consumer or subscription has begun.
pub(super) type Started = oneshot::Sender<Result<(), TransportError>>;

/// What consumers and subscriptions share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) options: TransportOptions,
    pub(super) address: String,
    pub(super) publishing: Arc<Slot>,
    pub(super) consuming: Arc<Slot>,
    pub(super) replies: Arc<Lane>,
    /// Replies that go to queues. What is wrong with one of these closes the channel, and the rest shall not suffer.
    pub(super) queue_replies: Arc<Lane>,
    /// What is known of idempotency keys.
    pub(super) claims: Claims,
    /// Where tasks run.
    pub(super) runtime: Handle,
    /// For messages of durable topics, and for those that are retried or given up.
    pub(super) durable: Arc<Lane>,
    /// Cancelled when nothing more is taken.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) refused: AtomicU64,
    /// The broker does not count what is taken over several queues.
    pub(super) shared_limit_refused: AtomicBool,
}

impl Core {
    /// Where it is told that a consumer or subscription has begun. Nowhere on a lazy node without a connection: there it
    /// begins when the connection comes.
    pub(super) fn beginning(
        &self,
    ) -> (
        Option<Started>,
        Option<oneshot::Receiver<Result<(), TransportError>>>,
    ) {
        if self.options.lazy && !self.publishing.is_up() {
            return (None, None);
        }
        let (started, ready) = oneshot::channel();
        (Some(started), Some(ready))
    }

    /// Waits until it has begun, where that is told.
    pub(super) async fn begun(
        &self,
        what: &str,
        ready: Option<oneshot::Receiver<Result<(), TransportError>>>,
    ) -> Result<(), TransportError> {
        let Some(ready) = ready else { return Ok(()) };
        match tokio::time::timeout(self.options.operation_timeout, ready).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TransportError::closed()),
            Err(_) => Err(self.not_in_time(what)),
        }
    }

    fn not_in_time(&self, what: &str) -> TransportError {
        if self.consuming.is_up() {
            return errors::timeout(what, self.options.operation_timeout, Execution::DidNotRun);
        }
        TransportError::did_not_run(
            TransportErrorKind::Disconnected,
            format!(
                "{what} failed: there is no connection to the broker at {}",
                self.address
            ),
        )
    }

    /// The connection that consumes, once there is one.
    pub(super) async fn link(&self) -> Result<Arc<supervisor::Link>, TransportError> {
        self.consuming.start();
        let mut links = self.consuming.links();
        let link = supervisor::next_link(&mut links);
        match tokio::time::timeout(self.options.operation_timeout, link).await {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(TransportError::closed()),
            Err(_) => Err(self.not_in_time("waiting for a connection")),
        }
    }

    pub(super) fn refused_a_reply_address(&self, service: &str) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever sends many of these shall not fill the log.
        if refused.is_power_of_two() {
            tracing::warn!(%service, refused, "a request named a reply address that no requester owns; it gets no reply");
        }
    }
}

/// Ends everything when the transport and all handles are gone.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) closing: CancellationToken,
    pub(super) ended: CancellationToken,
    pub(super) slots: [Arc<Slot>; 2],
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.closing.cancel();
        self.ended.cancel();
        for slot in &self.slots {
            slot.abandon();
        }
    }
}
