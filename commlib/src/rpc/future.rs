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
use crate::address::Address;
use crate::error::CallError;
use crate::message::{Message, ServiceError};
use crate::middleware::{Invocation, Kind};
use crate::node::{InFlight, Stopped};
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;

/// A [`Call`] that was awaited. Dropping it cancels the call.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<T, E> {
    call: Call<T, E>,
    state: State<T, E>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a call in flight is the usual state, and what the others would save is an allocation of this one"
)]
enum State<T, E> {
    Prepared,
    /// The request is on its way.
    InFlight(InFlight, Sent),
    /// With middleware, a span, retries, or from before there is a connection.
    Full(BoxFuture<'static, Result<T, CallError<E>>>),
    Over,
}

/// What a request that did not leave is sent with once more.
struct Sent {
    scope: Scope,
    body: Bytes,
    deadline: Instant,
}

impl<T, E> fmt::Debug for CallFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallFuture").field(&self.call).finish()
    }
}

impl<T: Message, E: ServiceError> CallFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            call,
            state: State::Prepared,
        }
    }

    /// Sends the request, or says why not.
    fn begin(&mut self) -> Result<State<T, E>, CallError<E>> {
        let parts = &mut self.call.parts;
        let body = std::mem::replace(&mut parts.body, Ok(Bytes::new()))?;
        let scope = Scope::current();
        let now = Instant::now();
        let deadline = parts.deadline(&scope, now);
        let address = parts.address()?;
        let span = span(&address);
        let sent = Sent {
            scope,
            body,
            deadline,
        };
        if self.call.retry.is_some() || !span.is_disabled() || !parts.node.is_direct() {
            return Ok(self.in_full(address, sent, span));
        }
        parts.node.check_open()?;
        let mut headers = parts.headers.clone();
        TraceContext::inject(&mut headers, &sent.scope, &span);
        let invocation = Invocation::new(
            Kind::Call,
            address,
            headers,
            parts.encoded(sent.body.clone()),
            deadline,
        );
        match InFlight::start(&parts.node, invocation, now, false) {
            Ok(flight) => Ok(State::InFlight(flight, sent)),
            Err(Stopped::Failed(failure)) => Err(decode_failure(failure)),
            Err(Stopped::Unsent(_)) => self.again(sent),
        }
    }

    /// Sends once more what did not leave.
    fn again(&mut self, sent: Sent) -> Result<State<T, E>, CallError<E>> {
        let address = self.call.parts.address()?;
        let span = span(&address);
        Ok(self.in_full(address, sent, span))
    }

    fn in_full(&mut self, address: Address, sent: Sent, span: tracing::Span) -> State<T, E> {
        let Sent {
            scope,
            body,
            deadline,
        } = sent;
        let call = self.call.take();
        let headers = call.parts.headers.clone();
        let invocation = Invocation::new(Kind::Call, address, headers, call.parts.encoded(body), deadline);
        State::Full(call.run(invocation, span, scope).boxed())
    }
}

impl<T: Message, E: ServiceError> Future for CallFuture<T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { call, state } = &mut *self;
        let next = match state {
            State::Prepared => self.begin(),
            State::InFlight(flight, _) => {
                let tried = ready!(flight.poll(&call.parts.node, cx));
                match (tried, std::mem::replace(state, State::Over)) {
                    (Ok(reply), _) => return Poll::Ready(decode_reply(&reply)),
                    (Err(Stopped::Unsent(_)), State::InFlight(_, sent)) => self.again(sent),
                    (Err(Stopped::Failed(failure)), _) => Err(decode_failure(failure)),
                    (Err(Stopped::Unsent(_)), _) => return Poll::Pending,
                }
            }
            State::Full(full) => {
                let result = ready!(full.poll_unpin(cx));
                *state = State::Over;
                return Poll::Ready(result);
            }
            State::Over => return Poll::Pending,
        };
        match next {
            Ok(next) => {
                self.state = next;
                self.poll(cx)
            }
            Err(error) => {
                self.state = State::Over;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<T, E> Drop for CallFuture<T, E> {
    fn drop(&mut self) {
        if let State::InFlight(flight, _) = &mut self.state {
            flight.abandon(&self.call.parts.node);
        }
    }
}
