//! One try of a call: from the hand-over of its request to its reply, its failure or its deadline.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::{Node, is_unsent};
use crate::address::Address;
use crate::error::{Execution, Failure, LocalError, Status, StatusCode};
use crate::middleware::{Invocation, Reply};
use crate::runtime::pending::{Outcome as CallOutcome, PendingCall, Progress};
use crate::transport::{Request, TransportError, TransportErrorKind};

/// Why a try of a call has no reply.
pub(crate) enum Stopped {
    Failed(Failure),
    /// There was no connection and the request certainly did not leave, so it can be sent again.
    Unsent(TransportError),
}

impl From<TransportError> for Stopped {
    fn from(error: TransportError) -> Self {
        if is_unsent(&error) {
            Self::Unsent(error)
        } else {
            Self::Failed(Status::from(error).into())
        }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A request that was handed to the transport. Whoever holds it polls it to its end or abandons it.
pub(crate) struct InFlight {
    address: Address,
    call: PendingCall,
    deadline: Instant,
    /// How long before the deadline it was sent.
    left: Duration,
    /// The broker keeps the request: it runs, whether or not somebody waits.
    durable: bool,
    /// Set when the deadline is near.
    timer: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl InFlight {
    /// Sends the request of a call, or says at once how that ended. The inbox is open.
    pub(crate) fn start(
        node: &Node,
        invocation: Invocation,
        now: Instant,
        durable: bool,
    ) -> Result<Self, Stopped> {
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        node.inner.throttle.admit(&address, now).map_err(Failure::from)?;
        let left = deadline.saturating_duration_since(now);
        let pending = &node.inner.pending;
        let Some(call) = pending.register(deadline, left) else {
            let limit = pending.limit();
            let text = format!(
                "{limit} calls are in flight already; raise the limit with `Limits::calls_in_flight`"
            );
            return Err(Failure::from(Status::new(StatusCode::ResourceExhausted, text)).into());
        };
        let flight = Self {
            address,
            call,
            deadline,
            left,
            durable,
            timer: None,
            over: false,
        };
        match flight.send(node, invocation) {
            Ok(()) => Ok(flight),
            Err(stopped) => {
                pending.release(&flight.call);
                Err(stopped)
            }
        }
    }

    fn send(&self, node: &Node, invocation: Invocation) -> Result<(), Stopped> {
        let request = Request {
            address: self.address.clone(),
            time_to_live: self.left,
            message: node.envelope(self.call.id().text(), invocation, self.left)?,
            durable: self.durable,
        };
        node.inner.transport.request(request).map_err(|error| {
            self.tell_throttle(node, is_full(&error));
            error.into()
        })
    }

    /// How it ended. Not polled again after that.
    pub(crate) fn poll(&mut self, node: &Node, cx: &mut Context<'_>) -> Poll<Result<Reply, Stopped>> {
        // A reply that is there at once, as on the in-process bus, must not keep a loop of calls from yielding.
        let budget = ready!(coop::poll_proceed(cx));
        let outcome = match node.inner.pending.poll(&self.call, cx) {
            Progress::Done(outcome) => outcome,
            Progress::Waiting => return Poll::Pending,
            Progress::Near => {
                ready!(self.timer(node).poll(cx));
                return Poll::Ready(Err(Failure::from(self.timed_out(node)).into()));
            }
        };
        budget.made_progress();
        self.over = true;
        let (ended, refused) = match outcome {
            CallOutcome::Reply(reply) => {
                let ended = node.take_reply(reply);
                let refused = matches!(&ended, Err(Failure::Status(status)) if status.is_overload());
                (ended.map_err(Stopped::from), refused)
            }
            CallOutcome::Malformed(error) => {
                let failure = Failure::from(LocalError::Decode(error.to_string()));
                (Err(failure.into()), false)
            }
            CallOutcome::Failed(error) => {
                let refused = is_full(&error);
                (Err(error.into()), refused)
            }
        };
        self.tell_throttle(node, refused);
        Poll::Ready(ended)
    }

    /// Lets the throttle know how a call ended.
    fn tell_throttle(&self, node: &Node, refused: bool) {
        if refused {
            node.inner.throttle.refused(&self.address, Instant::now());
        } else {
            node.inner.throttle.ended(&self.address);
        }
    }

    /// Nobody waits any more: the server is told. Nothing happens if it has ended.
    pub(crate) fn abandon(&mut self, node: &Node) {
        if !self.over {
            self.give_up(node);
        }
    }

    /// Leaves the table and tells the server. Whether the request certainly never left this process.
    fn give_up(&mut self, node: &Node) -> bool {
        self.over = true;
        node.inner.pending.release(&self.call);
        let id = self.call.id().text();
        let unsent = node.inner.transport.forget(&id);
        if !unsent && !self.durable {
            node.cancel(&self.address, &id);
        }
        unsent
    }

    fn timed_out(&mut self, node: &Node) -> Status {
        let unsent = self.give_up(node);
        let (address, waited) = (&self.address, self.left);
        if unsent {
            return Status::new(
                StatusCode::DeadlineExceeded,
                format!("the request to `{address}` could not be sent within {waited:?}"),
            )
            .with_execution(Execution::DidNotRun);
        }
        let hint = if self.durable {
            "; if the broker took the request, it runs nevertheless"
        } else if node.inner.transport.capabilities().no_responders {
            ""
        } else {
            "; nobody may be serving it"
        };
        Status::new(
            StatusCode::DeadlineExceeded,
            format!("no reply from `{address}` within {waited:?}{hint}"),
        )
    }

    fn timer(&mut self, node: &Node) -> Pin<&mut Sleep> {
        let deadline = self.deadline;
        self.timer
            .get_or_insert_with(|| {
                // An executor that is not tokio's has no timers; the node's runtime has.
                let _entered = Handle::try_current().is_err().then(|| node.inner.handle.enter());
                Box::pin(tokio::time::sleep_until(deadline))
            })
            .as_mut()
    }
}

/// Whether the broker has no room for more requests to an address.
fn is_full(error: &TransportError) -> bool {
    error.kind == TransportErrorKind::QueueFull
}

/// A request in flight as a future.
pub(super) struct Watched<'a> {
    pub(super) node: &'a Node,
    pub(super) flight: InFlight,
}

impl Future for Watched<'_> {
    type Output = Result<Reply, Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { node, flight } = &mut *self;
        flight.poll(node, cx)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.flight.abandon(self.node);
    }
}
