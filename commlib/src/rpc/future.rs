//! A call that was awaited. Where nothing wraps it, it goes to the transport without a task, a timer or an allocation of
//! its own; middleware, retries, spans and the wait for a connection take the way in full.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Call;
use super::call::{decode_failure, decode_reply, span};
use crate::error::CallError;
use crate::message::{Message, ServiceError};
use crate::middleware::{Invocation, Kind};
use crate::node::{InFlight, Stopped};
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;

/// A [`Call`] that was awaited. Dropping it cancels the call.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<T, E> {
    state: State<T, E>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a call in flight is the usual state, and what the others would save is an allocation of this one"
)]
enum State<T, E> {
    Prepared(Call<T, E>),
    InFlight(InFlight, Resend<T, E>),
    Full(BoxFuture<'static, Result<T, CallError<E>>>),
    Over,
}

/// What it takes to send a request that did not leave once more.
struct Resend<T, E> {
    call: Call<T, E>,
    invocation: Invocation,
    scope: Scope,
}

impl<T, E> fmt::Debug for CallFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}

impl<T: Message, E: ServiceError> CallFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            state: State::Prepared(call),
        }
    }
}

impl<T: Message, E: ServiceError> State<T, E> {
    /// Sends the request, or says how the call ended.
    fn begin(mut call: Call<T, E>) -> Result<Self, CallError<E>> {
        let body = std::mem::replace(&mut call.parts.body, Ok(Bytes::new()))?;
        let scope = Scope::current();
        let now = Instant::now();
        let deadline = call.parts.deadline(&scope, now);
        let address = call.parts.address()?;
        let span = span(&address);
        let headers = std::mem::take(&mut call.parts.headers);
        let invocation = Invocation::new(Kind::Call, address, headers, body, deadline);
        let direct = call.retry.is_none() && span.is_disabled() && call.parts.node.is_direct();
        if !direct {
            return Ok(Self::Full(call.run(invocation, span, scope).boxed()));
        }
        call.parts.node.check_open()?;
        let again = invocation.clone();
        let mut invocation = invocation;
        TraceContext::inject(&mut invocation.headers, &scope, &span);
        let resend = Resend {
            call,
            invocation: again,
            scope,
        };
        match InFlight::start(&resend.call.parts.node, invocation, now) {
            Ok(flight) => Ok(Self::InFlight(flight, resend)),
            Err(Stopped::Failed(failure)) => Err(decode_failure(failure)),
            Err(Stopped::Unsent(_)) => Ok(resend.in_full()),
        }
    }
}

impl<T: Message, E: ServiceError> Resend<T, E> {
    fn in_full(self) -> State<T, E> {
        let span = span(&self.invocation.address);
        State::Full(self.call.run(self.invocation, span, self.scope).boxed())
    }
}

impl<T: Message, E: ServiceError> Future for CallFuture<T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::InFlight(flight, _) => {
                    let result = ready!(Pin::new(flight).poll(cx));
                    let state = std::mem::replace(&mut self.state, State::Over);
                    match (result, state) {
                        (Err(Stopped::Unsent(_)), State::InFlight(_, resend)) => {
                            self.state = resend.in_full()
                        }
                        (Err(Stopped::Failed(failure)), _) => {
                            return Poll::Ready(Err(decode_failure(failure)));
                        }
                        (Ok(reply), _) => return Poll::Ready(decode_reply(&reply)),
                        (Err(Stopped::Unsent(_)), _) => return Poll::Pending,
                    }
                }
                State::Full(full) => {
                    let result = ready!(full.poll_unpin(cx));
                    self.state = State::Over;
                    return Poll::Ready(result);
                }
                State::Prepared(_) => {
                    if let State::Prepared(call) = std::mem::replace(&mut self.state, State::Over) {
                        match State::begin(call) {
                            Ok(state) => self.state = state,
                            Err(error) => return Poll::Ready(Err(error)),
                        }
                    }
                }
                State::Over => return Poll::Pending,
            }
        }
    }
}
