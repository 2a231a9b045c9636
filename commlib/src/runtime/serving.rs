//! What a running server or topic handler is made of, and how it drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Execution, NodeError, Status, StatusCode};
use crate::transport::{Consumer, Subscription};

/// How long handlers that were told to stop may take before they are ended.
const GRACE: Duration = Duration::from_millis(250);

/// Something that messages come from.
pub(crate) enum Source {
    Consumer(Box<dyn Consumer>),
    Subscription(Box<dyn Subscription>),
}

impl Source {
    fn stop(&self) -> BoxFuture<'_, ()> {
        match self {
            Self::Consumer(consumer) => consumer.stop(),
            Self::Subscription(subscription) => subscription.stop(),
        }
    }
}

/// A running server or handler.
pub(crate) struct Serving {
    name: String,
    /// Of an RPC server, the names of its methods in order of the alphabet.
    methods: Vec<&'static str>,
    sources: Mutex<Vec<Source>>,
    /// What its handlers hear of their callers through.
    cancellations: Mutex<Option<Box<dyn Subscription>>>,
    pub(crate) tasks: TaskTracker,
    /// Tells handlers to stop.
    pub(crate) canceled: CancellationToken,
    /// Ends handlers that did not.
    pub(crate) ended: CancellationToken,
    stopping: AtomicBool,
    /// How many handlers run where their message was delivered, without a task.
    here: AtomicUsize,
    here_ended: Notify,
}

/// A handler that runs where its message was delivered.
pub(crate) struct Here<'a>(&'a Serving);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        if self.0.here.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_stopped() {
            self.0.here_ended.notify_waiters();
        }
    }
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving")
            .field("name", &self.name)
            .field("running", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Serving {
    pub(crate) fn new(name: impl Into<String>) -> Arc<Self> {
        Self::of_methods(name, Vec::new())
    }

    pub(crate) fn of_methods(name: impl Into<String>, methods: Vec<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            methods,
            sources: Mutex::default(),
            cancellations: Mutex::default(),
            tasks: TaskTracker::new(),
            canceled: CancellationToken::new(),
            ended: CancellationToken::new(),
            stopping: AtomicBool::new(false),
            here: AtomicUsize::new(0),
            here_ended: Notify::new(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A method that this server and another one have in common, if they are of one name and not of one contract.
    pub(crate) fn conflict(&self, other: &Self) -> Option<&'static str> {
        if self.name != other.name || self.methods == other.methods {
            return None;
        }
        let mut methods = self.methods.iter().copied();
        methods.find(|method| other.methods.contains(method))
    }

    pub(crate) fn add(&self, source: Source) {
        self.sources.lock().push(source);
    }

    /// Keeps what tells of callers that gave up, until no handler runs any more.
    pub(crate) fn hear_of_callers(&self, cancellations: Box<dyn Subscription>) {
        *self.cancellations.lock() = Some(cancellations);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Counts a handler that runs where its message was delivered, until the result is dropped.
    pub(crate) fn here(&self) -> Here<'_> {
        self.here.fetch_add(1, Ordering::SeqCst);
        Here(self)
    }

    /// Resolves when no handler runs.
    async fn idle(&self) {
        self.tasks.wait().await;
        loop {
            let ended = self.here_ended.notified();
            if self.here.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Stops taking, waits for what runs until the deadline, then tells it to stop, then ends it.
    pub(crate) async fn shutdown(&self, deadline: Instant) -> Result<(), NodeError> {
        let drained = self.drain(deadline).await;
        let cancellations = self.cancellations.lock().take();
        if let Some(cancellations) = cancellations {
            // Should the broker not confirm it in time, it ends by being dropped.
            let _ = tokio::time::timeout(GRACE, cancellations.stop()).await;
        }
        drained
    }

    async fn drain(&self, deadline: Instant) -> Result<(), NodeError> {
        self.stopping.store(true, Ordering::SeqCst);
        let sources = std::mem::take(&mut *self.sources.lock());
        let stop = futures_util::future::join_all(sources.iter().map(Source::stop));
        let stopped = tokio::time::timeout_at(deadline.max(Instant::now() + GRACE), stop)
            .await
            .is_ok();
        drop(sources);
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.idle()).await.is_ok() {
            return if stopped {
                Ok(())
            } else {
                Err(self.late("the broker did not confirm the stop in time"))
            };
        }
        let running = self.tasks.len();
        self.canceled.cancel();
        if tokio::time::timeout(GRACE, self.idle()).await.is_err() {
            self.ended.cancel();
            // Ended tasks only have their last reply to hand over.
            let _ = tokio::time::timeout(GRACE, self.idle()).await;
        }
        Err(self.late(&format!(
            "{running} handlers did not finish in time and were ended"
        )))
    }

    fn late(&self, what: &str) -> NodeError {
        Status::new(
            StatusCode::DeadlineExceeded,
            format!("shutting down `{}`: {what}", self.name),
        )
        .with_execution(Execution::MayHaveRun)
        .into()
    }
}
