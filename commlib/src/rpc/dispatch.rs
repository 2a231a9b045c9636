//! What stands between a transport and a service's handlers: takes requests and cancellations, and decides which
//! requests run and where.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::handling::{Handling, is_inside, refuse};
use super::{MethodDescriptor, RpcService};
use crate::codec::{self, Codec};
use crate::envelope::Meta;
use crate::error::{Execution, Status, StatusCode};
use crate::limits::{FOREVER, too_large};
use crate::node::{Cancellation, Node};
use crate::runtime::cancel::Cancel;
use crate::runtime::pace::{Pace, Waiter};
use crate::runtime::serving::Serving;
use crate::runtime::{id, now_micros};
use crate::transport::{Delivery, RequestSink, Taken, TopicMessage, TopicSink};

/// How many ids of cancelled requests that have not come yet are remembered.
const EARLY_CANCELS: usize = 1024;
/// For how long.
const EARLY_CANCEL_LIFE: Duration = Duration::from_secs(60);

/// Takes requests from the transport and cancellations from the service's topic.
pub(super) struct Dispatcher {
    server: Arc<Server>,
}

/// What the requests of a server share.
pub(super) struct Server {
    pub(super) node: Node,
    pub(super) service: Arc<dyn RpcService>,
    pub(super) serving: Arc<Serving>,
    methods: Vec<Method>,
    /// For how long a request may have waited for its turn.
    max_wait: Option<Duration>,
    waiting: Mutex<Waiting>,
    /// How many early cancellations are remembered, so that the usual request needs no lock to learn that there are none.
    early: AtomicUsize,
}

/// A method as it is served.
pub(super) struct Method {
    pub(super) descriptor: &'static MethodDescriptor,
    pub(super) pace: Pace,
}

/// The requests whose handlers wait for something, and the cancellations that came before their request.
#[derive(Default)]
struct Waiting {
    by_id: HashMap<String, Arc<Cancel>>,
    canceled_early: HashMap<String, Instant>,
}

/// When a request came, by both clocks: one to compare with its sender's, one to measure with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    micros: u64,
    pub(super) at: Instant,
}

impl Received {
    pub(super) fn now() -> Self {
        Self {
            micros: now_micros(),
            at: Instant::now(),
        }
    }

    /// The wall clock at a later instant, in µs since 1970 UTC.
    pub(super) fn micros_at(&self, later: Instant) -> u64 {
        let passed = later.saturating_duration_since(self.at).as_micros();
        self.micros
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

impl Dispatcher {
    pub(super) fn new(
        node: &Node,
        service: Arc<dyn RpcService>,
        serving: &Arc<Serving>,
        max_wait: Option<Duration>,
    ) -> Self {
        // Those of work queues come first, so that the index of a queue is that of its method.
        let all = || service.descriptor().methods.iter();
        let (kept, queued) = (all().filter(|it| it.durable), all().filter(|it| !it.durable));
        let methods = queued.chain(kept).map(|descriptor| Method {
            descriptor,
            pace: Pace::default(),
        });
        let server = Server {
            node: node.clone(),
            methods: methods.collect(),
            service: Arc::clone(&service),
            serving: Arc::clone(serving),
            max_wait,
            waiting: Mutex::default(),
            early: AtomicUsize::new(0),
        };
        Self {
            server: Arc::new(server),
        }
    }
}

impl RequestSink for Dispatcher {
    fn deliver(&self, delivery: Delivery) {
        let Delivery {
            address,
            taken,
            redelivered,
            waited_for,
            responder,
        } = delivery;
        let server = &self.server;
        let Some(method) = server.methods.get(address) else {
            let status = Status::new(StatusCode::Unimplemented, "no such method");
            return refuse(responder, &status);
        };
        let mut message = match taken {
            Taken::Message(message) => message,
            Taken::Malformed(error) => {
                tracing::warn!(address = %method.descriptor.address, %error, "refused a request that can't be read");
                let status = Status::new(StatusCode::InvalidArgument, error.to_string());
                return refuse(responder, &status);
            }
            Taken::TooLarge { size } => {
                let limit = server.node.config().limits.body_in;
                let text = too_large("the body of the request", size, limit);
                tracing::warn!(address = %method.descriptor.address, size, limit, "refused a request over the limit");
                return refuse(responder, &Status::new(StatusCode::ResourceExhausted, text));
            }
        };
        let codec = match Codec::of(message.meta.content_type.as_deref()) {
            Ok(codec) => codec,
            Err(reason) => {
                tracing::warn!(address = %method.descriptor.address, reason, "refused a request that can't be read");
                return refuse(responder, &Status::new(StatusCode::InvalidArgument, reason));
            }
        };
        let compression = match server.node.config().receive(&mut message, codec) {
            Ok(compression) => compression,
            Err(status) => {
                tracing::warn!(address = %method.descriptor.address, %status, "refused a request that can't be taken");
                return refuse(responder, &status);
            }
        };
        let received = Received::now();
        let deadline = match server.admit(method.descriptor, &message.meta, redelivered, received) {
            Ok(deadline) => deadline,
            Err(status) => return refuse(responder, &status),
        };
        let handling = Handling {
            method: address,
            received,
            deadline,
            redelivered,
            has_timeout: message.meta.timeout_ms.is_some(),
            cancel: Arc::new(Cancel::new(message.meta.id.take())),
            codec,
            compression,
            responder,
            once: None,
        };
        let waiter = if waited_for {
            Waiter::Caller
        } else {
            Waiter::Connection
        };
        if method.pace.is_quick(waiter) && !is_inside() && server.node.is_in_runtime() {
            handling.run_here(server, message);
        } else {
            server
                .serving
                .tasks
                .spawn(handling.run(Arc::clone(server), message));
        }
    }
}

impl Dispatcher {
    /// What the requests share.
    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Server {
    /// The methods and their places: first those of work queues, then the durable ones.
    pub(super) fn methods(&self) -> impl Iterator<Item = (usize, &'static MethodDescriptor)> {
        self.methods.iter().map(|method| method.descriptor).enumerate()
    }

    pub(super) fn method(&self, index: usize) -> &Method {
        &self.methods[index]
    }

    /// Decides whether a request runs; until when it may.
    fn admit(
        &self,
        method: &MethodDescriptor,
        meta: &Meta,
        redelivered: bool,
        received: Received,
    ) -> Result<Instant, Status> {
        if redelivered && !method.idempotent {
            return Err(Status::new(
                StatusCode::Unavailable,
                "an earlier delivery of this request may have run, so it was not run again",
            ));
        }
        let default = self.node.config().call_timeout;
        let left = time_left(meta, default, received.micros).ok_or_else(|| {
            Status::new(
                StatusCode::DeadlineExceeded,
                "the request came after its deadline",
            )
            .with_execution(Execution::DidNotRun)
        })?;
        if self
            .max_wait
            .is_some_and(|limit| age(meta, received.micros) > limit)
        {
            let text = "the request waited too long for its turn: the servers have more to do than they can; try later";
            return Err(Status::overloaded(text));
        }
        if self.early.load(Ordering::Acquire) > 0
            && meta.id.as_ref().is_some_and(|id| self.was_canceled_early(id))
        {
            return Err(
                Status::new(StatusCode::Canceled, "the caller gave up before the request ran")
                    .with_execution(Execution::DidNotRun),
            );
        }
        Ok(received.at + left)
    }

    fn was_canceled_early(&self, id: &str) -> bool {
        let mut waiting = self.waiting.lock();
        let was = waiting.canceled_early.remove(id).is_some();
        self.early.store(waiting.canceled_early.len(), Ordering::Release);
        was
    }

    /// A handler waits: from now on its caller can cancel it. One that did so already is heard, too.
    pub(super) fn waits(&self, cancel: &Arc<Cancel>) {
        let Some(id) = &cancel.id else {
            return;
        };
        let mut waiting = self.waiting.lock();
        if waiting.canceled_early.remove(id).is_some() {
            self.early.store(waiting.canceled_early.len(), Ordering::Release);
            cancel.cancel();
        }
        waiting.by_id.insert(id.clone(), Arc::clone(cancel));
    }

    /// A handler that waited is done.
    pub(super) fn waited(&self, cancel: &Cancel) {
        if let Some(id) = &cancel.id {
            self.waiting.lock().by_id.remove(id);
        }
    }
}

/// How long ago a request was sent; nothing where that is not known, or still to come.
fn age(meta: &Meta, now: u64) -> Duration {
    Duration::from_micros(now.saturating_sub(meta.timestamp.unwrap_or(now)))
}

/// How long the caller of a request that comes now still waits, if it said so and waits at all.
pub(super) fn still_waits(meta: &Meta) -> Option<Duration> {
    meta.timeout_ms?;
    time_left(meta, Duration::ZERO, now_micros())
}

/// How long the caller still waits: what it said, less the time that passed since. A clock that runs ahead or behind
/// so far that the request came before it was sent counts as in step. `None` when the time is over.
fn time_left(meta: &Meta, default: Duration, now: u64) -> Option<Duration> {
    let timeout = meta.timeout_ms.map_or(default, Duration::from_millis);
    if meta.timeout_ms.is_none() {
        return Some(timeout);
    }
    let left = timeout.checked_sub(age(meta, now)).filter(|left| !left.is_zero());
    left.map(|left| left.min(FOREVER))
}

impl TopicSink for Dispatcher {
    fn message(&self, message: TopicMessage) {
        let Ok(Cancellation { id }) = codec::decode(Codec::Json, &message.message.data) else {
            return tracing::debug!("ignored a malformed cancellation");
        };
        let mut waiting = self.server.waiting.lock();
        if let Some(cancel) = waiting.by_id.get(&id) {
            return cancel.cancel();
        }
        if id.len() != id::LEN {
            return;
        }
        let now = Instant::now();
        let canceled_early = &mut waiting.canceled_early;
        if canceled_early.len() >= EARLY_CANCELS {
            canceled_early.retain(|_, at| now.duration_since(*at) < EARLY_CANCEL_LIFE);
        }
        if canceled_early.len() < EARLY_CANCELS {
            canceled_early.insert(id, now);
        }
        self.server.early.store(canceled_early.len(), Ordering::Release);
    }

    fn gap(&self) {
        // Cancellations are hints: a missed one costs work, never correctness.
    }

    fn dropped(&self, reason: &str) {
        tracing::debug!(reason, "dropped a cancellation");
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// Some time of the wall clock, in µs.
    const NOW: u64 = 1_700_000_000_000_000;

    fn meta(timeout_ms: Option<u64>, age: i64) -> Meta {
        Meta {
            timeout_ms,
            timestamp: Some(NOW.saturating_add_signed(-age * 1000)),
            ..Meta::default()
        }
    }

    #[test]
    fn the_deadline_counts_from_when_the_request_was_sent() {
        let default = Duration::from_secs(10);
        let left = |timeout_ms, age| time_left(&meta(timeout_ms, age), default, NOW);
        assert_eq!(left(Some(1000), 400), Some(Duration::from_millis(600)));
        assert_eq!(left(Some(1000), 999), Some(Duration::from_millis(1)));
        assert_eq!(left(Some(1000), 1000), None);
        assert_eq!(left(Some(1000), 1001), None);
        assert_eq!(left(Some(0), 0), None);
        assert_eq!(left(None, 60_000), Some(default));
        // From a clock that is an hour ahead.
        assert_eq!(left(Some(1000), -3_600_000), Some(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn whatever_a_peer_says_of_times_a_deadline_can_be_told(
            timeout_ms in prop_oneof![option::of(0..100_000_u64), Just(Some(u64::MAX)), option::of(any::<u64>())],
            timestamp in prop_oneof![option::of(NOW - 100_000_000..NOW + 100_000_000), option::of(any::<u64>())],
            now in prop_oneof![Just(NOW), any::<u64>()],
            default in 0..1_000_000_u64,
        ) {
            let default = Duration::from_millis(default);
            let meta = Meta { timeout_ms, timestamp, ..Meta::default() };
            let left = time_left(&meta, default, now);
            // The same in plain numbers: µs that passed, of µs that there were.
            let passed = u128::from(timestamp.map_or(0, |sent| now.saturating_sub(sent)));
            match timeout_ms {
                None => prop_assert_eq!(left, Some(default)),
                Some(timeout) => {
                    let wanted = (u128::from(timeout) * 1000).checked_sub(passed).filter(|left| *left > 0);
                    let wanted = wanted.map(|left| left.min(FOREVER.as_micros()));
                    prop_assert_eq!(left.map(|left| left.as_micros()), wanted);
                }
            }
            // Does not overflow.
            let _ = Instant::now() + left.unwrap_or_default();
            // Time only makes it less.
            let later = time_left(&meta, default, now.saturating_add(1_000_000));
            prop_assert!(later <= left);
        }
    }
}
