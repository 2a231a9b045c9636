//! Tells a handler that nobody waits for its result any more.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The cancellation of one request.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    /// The request's id, by which its caller cancels it.
    pub(crate) id: Option<String>,
    canceled: AtomicBool,
    changed: Notify,
}

impl Cancel {
    pub(crate) fn new(id: Option<String>) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    pub(crate) fn cancel(&self) {
        self.canceled.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Acquire)
    }

    /// Resolves once it is cancelled. Cancellation safe.
    pub(crate) async fn canceled(&self) {
        // A waiter counts from here on, so a cancellation between the look and the wait is not missed.
        let changed = self.changed.notified();
        if !self.is_canceled() {
            changed.await;
        }
    }
}
