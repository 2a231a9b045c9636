//! The scope of the work at hand: what calls made inside a handler inherit from the request that it serves.

use tokio::time::Instant;

use crate::trace::TraceContext;

/// What is inherited.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// The trace that the work belongs to.
    pub(crate) trace: Option<TraceContext>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

impl Scope {
    /// The scope of the current task; empty outside a handler.
    pub(crate) fn current() -> Self {
        SCOPE.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs something in this scope.
    pub(crate) fn sync<T>(&self, run: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(self.clone(), run)
    }

    /// Runs a future in this scope.
    pub(crate) fn enter<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, future)
    }
}
