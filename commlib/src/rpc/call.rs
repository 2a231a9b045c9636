//! Calls in progress: builders that become futures.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::Instrument;

use super::retry::Tries;
use super::{CallFuture, MethodDescriptor, Retry};
use crate::address::Address;
use crate::codec::{self, Codec};
use crate::envelope::Headers;
use crate::error::{CallError, Failure, LocalError, NodeError, Status};
use crate::limits::after;
use crate::message::{Message, ServiceError};
use crate::middleware::{Invocation, Kind, Next, Outcome};
use crate::node::{Node, Sending};
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;
use crate::transport::Accepted;

/// What both builders hold.
pub(super) struct Parts {
    pub(super) node: Node,
    pub(super) address: Address,
    default_timeout: Option<Duration>,
    /// Whether it may run twice.
    repeatable: bool,
    durable: bool,
    pub(super) body: Result<Bytes, LocalError>,
    pub(super) headers: Headers,
    timeout: Option<Duration>,
}

impl Parts {
    fn of_method(node: Node, method: &'static MethodDescriptor, body: Result<Bytes, LocalError>) -> Self {
        Self {
            default_timeout: method.timeout,
            repeatable: method.idempotent || method.durable,
            durable: method.durable,
            ..Self::new(node, method.address.clone(), body)
        }
    }

    fn new(node: Node, address: Address, body: Result<Bytes, LocalError>) -> Self {
        Self {
            node,
            address,
            default_timeout: None,
            repeatable: false,
            durable: false,
            body,
            headers: Headers::new(),
            timeout: None,
        }
    }

    /// When the caller stops waiting: its own limit, or what the request that is being served leaves.
    pub(super) fn deadline(&self, scope: &Scope, now: Instant) -> Instant {
        let timeout = self
            .timeout
            .or(self.default_timeout)
            .unwrap_or(self.node.config().call_timeout);
        let own = after(now, timeout);
        scope.deadline.map_or(own, |inherited| inherited.min(own))
    }

    /// How often it is tried.
    pub(super) fn tries(&self, retry: Option<Retry>, deadline: Instant) -> Tries<'_> {
        Tries::new(retry, &self.node.config().retries, self.repeatable, deadline)
    }

    /// A body in the codec of the node.
    pub(super) fn encoded(&self, body: Bytes) -> (Codec, Bytes) {
        (self.node.config().codec, body)
    }

    /// The address at the broker.
    pub(super) fn address(&self) -> Result<Address, LocalError> {
        self.node
            .qualify(&self.address)
            .map_err(|error| LocalError::Address(error.to_string()))
    }

    /// Sends it through the middleware, in the span.
    pub(super) async fn run(&self, invocation: Invocation, span: tracing::Span, scope: &Scope) -> Outcome {
        let mut invocation = invocation;
        TraceContext::inject(&mut invocation.headers, scope, &span);
        let end = Sending::calling(&self.node, self.durable);
        Next::new(&self.node.config().client_middleware, &end)
            .run(invocation)
            .instrument(span)
            .await
    }

    /// The call in full: with middleware, a span and retries, and from before there is an inbox for its reply.
    ///
    /// In a box, and its result still encoded, so that programs have this once and not for each type of reply.
    pub(super) fn run_in_full(
        self,
        retry: Option<Retry>,
        invocation: Invocation,
        mut span: tracing::Span,
        scope: Scope,
    ) -> BoxFuture<'static, Outcome> {
        async move {
            let mut tries = self.tries(retry, invocation.deadline);
            loop {
                let failure = match self.run(invocation.clone(), span, &scope).await {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                };
                if let Some(failure) = tries.after(failure).await {
                    return Err(failure);
                }
                span = self::span(&invocation.address);
            }
        }
        .boxed()
    }

    /// These, to be sent elsewhere; what stays behind has no body and is not sent.
    pub(super) fn take(&mut self) -> Self {
        let parts = Self::new(self.node.clone(), self.address.clone(), Ok(Bytes::new()));
        std::mem::replace(self, parts)
    }
}

/// The span of one try of a call.
pub(super) fn span(address: &Address) -> tracing::Span {
    tracing::info_span!("commlib.call", %address, trace_id = tracing::field::Empty)
}

/// A call that is made when it is awaited.
///
/// Awaiting it gives the method's result. The call ends by its deadline, whatever the broker and the peer do:
/// by default [`NodeBuilder::call_timeout`](crate::NodeBuilder::call_timeout) from the moment it is awaited, less
/// where the method or the call says so, and never later than the deadline of the request being served.
///
/// Dropping the future cancels the call: the server is told, and a request that was not started is not run.
///
/// # Errors
/// [`CallError`]: the method's own error, a status with what happened to the work, or a local failure.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<T, E> {
    pub(super) parts: Parts,
    pub(super) retry: Option<Retry>,
    result: PhantomData<fn() -> (T, E)>,
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("address", &self.parts.address)
            .finish_non_exhaustive()
    }
}

impl<T, E> Call<T, E> {
    pub(super) fn of_method(
        node: Node,
        method: &'static MethodDescriptor,
        body: Result<Bytes, LocalError>,
    ) -> Self {
        Self {
            parts: Parts::of_method(node, method, body),
            retry: None,
            result: PhantomData,
        }
    }

    pub(super) fn to_address(node: Node, address: Address, body: Result<Bytes, LocalError>) -> Self {
        Self {
            parts: Parts::new(node, address, body),
            retry: None,
            result: PhantomData,
        }
    }

    /// How long the whole call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.timeout = Some(timeout);
        self
    }

    /// Adds a header, in place of an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parts.headers.insert(name, value);
        self
    }

    /// Tries again where that is safe. See [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }
}

/// The result of a call, with its types.
pub(super) fn decode<T: Message, E: ServiceError>(outcome: Outcome) -> Result<T, CallError<E>> {
    match outcome {
        Ok(reply) => codec::decode(reply.codec, &reply.body)
            .map_err(|reason| CallError::Local(LocalError::Decode(reason))),
        Err(failure) => Err(decode_failure(failure)),
    }
}

fn decode_failure<E: ServiceError>(failure: Failure) -> CallError<E> {
    match failure {
        Failure::App(error) => match codec::decode(error.codec, &error.details) {
            Ok(app) => CallError::App(app),
            Err(reason) => CallError::Local(LocalError::Decode(format!(
                "the method failed with an error that is not of the declared type ({reason}): {}",
                error.message
            ))),
        },
        Failure::Status(status) => CallError::Status(status),
        Failure::Local(error) => CallError::Local(error),
    }
}

impl<T: Message, E: ServiceError> IntoFuture for Call<T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = CallFuture<T, E>;

    fn into_future(self) -> Self::IntoFuture {
        CallFuture::new(self)
    }
}

/// A request without a reply, sent when it is awaited.
///
/// Awaiting it tells whether the broker took the request, and how well it keeps it ([`Accepted`]): not beyond the deadline,
/// and not for sure until then. Whether and how it ran stays unknown. It ends by its
/// deadline as a [`Call`] does. Dropping the future does not take back what was sent.
///
/// # Errors
/// [`NodeError`]: nothing was sent, or the broker refused it or nobody serves it where the transport can tell.
#[must_use = "a request is not sent until it is awaited"]
pub struct Oneway {
    pub(super) parts: Parts,
}

impl fmt::Debug for Oneway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oneway")
            .field("address", &self.parts.address)
            .finish_non_exhaustive()
    }
}

impl Oneway {
    pub(super) fn new(
        node: Node,
        method: &'static MethodDescriptor,
        body: Result<Bytes, LocalError>,
    ) -> Self {
        Self {
            parts: Parts::of_method(node, method, body),
        }
    }

    /// How long sending may take, and how long the request is worth running.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.timeout = Some(timeout);
        self
    }

    /// Adds a header, in place of an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parts.headers.insert(name, value);
        self
    }
}

impl IntoFuture for Oneway {
    type Output = Result<Accepted, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        async move {
            let body = std::mem::replace(&mut self.parts.body, Ok(Bytes::new()))?;
            let scope = Scope::current();
            let deadline = self.parts.deadline(&scope, Instant::now());
            let address = self.parts.address()?;
            let span = tracing::info_span!("commlib.oneway", %address, trace_id = tracing::field::Empty);
            let headers = std::mem::take(&mut self.parts.headers);
            let invocation =
                Invocation::new(Kind::Oneway, address, headers, self.parts.encoded(body), deadline);
            self.parts
                .run(invocation, span, &scope)
                .await
                .map(|reply| reply.accepted.unwrap_or_default())
                .map_err(without_app)
        }
        .boxed()
    }
}

/// The failure of something that has no error type of its own.
pub(crate) fn without_app(failure: Failure) -> NodeError {
    match failure {
        Failure::App(error) => NodeError::Status(Status::new(crate::StatusCode::Internal, error.message)),
        Failure::Status(status) => NodeError::Status(status),
        Failure::Local(error) => NodeError::Local(error),
    }
}
