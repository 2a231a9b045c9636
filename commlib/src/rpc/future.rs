//! A call that was awaited. Where nothing wraps it, it goes to the transport without a task, a timer or an allocation of
//! its own; middleware, retries, spans and the wait for a connection take the way in full.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::call::{Parts, decode, span};
use super::{Call, Retry};
use crate::address::Address;
use crate::error::{CallError, Failure, Status};
use crate::message::{Message, ServiceError};
use crate::middleware::{Invocation, Kind, Outcome};
use crate::node::{InFlight, Stopped};
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;
use crate::transport::TransportError;

/// A [`Call`] that was awaited. Dropping it cancels the call.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<T, E> {
    running: Running,
    result: PhantomData<fn() -> (T, E)>,
}

impl<T, E> fmt::Debug for CallFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture")
            .field("address", &self.running.parts.address)
            .finish_non_exhaustive()
    }
}

impl<T, E> CallFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            running: Running {
                parts: call.parts,
                retry: call.retry,
                state: State::Prepared,
            },
            result: PhantomData,
        }
    }
}

impl<T: Message, E: ServiceError> Future for CallFuture<T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.running.poll(cx).map(decode)
    }
}

/// The call without its types, so that programs have it once and not for each type of reply.
struct Running {
    parts: Parts,
    retry: Option<Retry>,
    state: State,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a call in flight is the usual state, and what the others would save is an allocation of this one"
)]
enum State {
    Prepared,
    /// The request is on its way.
    InFlight(InFlight, Sent),
    /// With middleware, a span, retries, or from before there is a connection.
    Full(BoxFuture<'static, Outcome>),
    Over,
}

/// What a request that did not leave is sent with once more.
struct Sent {
    scope: Scope,
    /// Not kept where there is no connection that could be away, as sharing it costs an allocation.
    body: Option<Bytes>,
    deadline: Instant,
}

impl Running {
    /// Sends the request, or says why not.
    fn begin(&mut self) -> Result<State, Failure> {
        let parts = &mut self.parts;
        let body = std::mem::replace(&mut parts.body, Ok(Bytes::new()))?;
        let scope = Scope::current();
        let now = Instant::now();
        let deadline = parts.deadline(&scope, now);
        let address = parts.address()?;
        let span = span(&address);
        if self.retry.is_some() || !span.is_disabled() || !parts.node.is_direct() {
            return Ok(self.in_full(address, body, deadline, span, scope));
        }
        parts.node.check_open()?;
        let mut headers = parts.headers.clone();
        TraceContext::inject(&mut headers, &scope, &span);
        let sent = Sent {
            scope,
            body: parts.node.reconnects().then(|| body.clone()),
            deadline,
        };
        let invocation = Invocation::new(Kind::Call, address, headers, parts.encoded(body), deadline);
        match InFlight::start(&parts.node, invocation, now, false) {
            Ok(flight) => Ok(State::InFlight(flight, sent)),
            Err(Stopped::Failed(failure)) => Err(failure),
            Err(Stopped::Unsent(error)) => self.again(sent, error),
        }
    }

    /// Sends once more what did not leave.
    fn again(&mut self, sent: Sent, error: TransportError) -> Result<State, Failure> {
        let Sent {
            scope,
            body,
            deadline,
        } = sent;
        let body = body.ok_or_else(|| Status::from(error))?;
        let address = self.parts.address()?;
        let span = span(&address);
        Ok(self.in_full(address, body, deadline, span, scope))
    }

    fn in_full(
        &mut self,
        address: Address,
        body: Bytes,
        deadline: Instant,
        span: tracing::Span,
        scope: Scope,
    ) -> State {
        let parts = self.parts.take();
        let headers = parts.headers.clone();
        let invocation = Invocation::new(Kind::Call, address, headers, parts.encoded(body), deadline);
        State::Full(parts.run_in_full(self.retry.take(), invocation, span, scope))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Self { parts, state, .. } = self;
        let next = match state {
            State::Prepared => self.begin(),
            State::InFlight(flight, _) => {
                let tried = ready!(flight.poll(&parts.node, cx));
                match (tried, std::mem::replace(state, State::Over)) {
                    (Ok(reply), _) => return Poll::Ready(Ok(reply)),
                    (Err(Stopped::Unsent(error)), State::InFlight(_, sent)) => self.again(sent, error),
                    (Err(Stopped::Failed(failure)), _) => Err(failure),
                    (Err(Stopped::Unsent(_)), _) => return Poll::Pending,
                }
            }
            State::Full(full) => {
                let outcome = ready!(full.poll_unpin(cx));
                *state = State::Over;
                return Poll::Ready(outcome);
            }
            State::Over => return Poll::Pending,
        };
        match next {
            Ok(next) => {
                self.state = next;
                self.poll(cx)
            }
            Err(failure) => {
                self.state = State::Over;
                Poll::Ready(Err(failure))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let State::InFlight(flight, _) = &mut self.state {
            flight.abandon(&self.parts.node);
        }
    }
}
