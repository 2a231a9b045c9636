//! Calls of durable methods: accepted when the broker has them for good, told apart by idempotency keys.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::call::{self, Parts, decode, without_app};
use super::{Call, Oneway, Retry};
use crate::address::Address;
use crate::envelope::{Dialect, Headers};
use crate::error::{CallError, Execution, Failure, NodeError, Status, StatusCode};
use crate::message::{Message, ServiceError};
use crate::middleware::{Invocation, Kind, Outcome};
use crate::node::Node;
use crate::runtime::id;
use crate::runtime::scope::Scope;
use crate::transport::Accepted;

/// The header with the key.
pub(super) const KEY: &str = "idempotency-key";
/// The longest key in bytes.
const LONGEST: usize = 256;

/// A call of a durable method, which is made when it is awaited.
///
/// Awaiting it gives the method's result. The broker keeps the request until a server has handled it, whether or not
/// there is one now: it runs at least once, also when the servers are away, or when the one that has it dies, and if that
/// happens too often it becomes a dead letter ([`Node::dead_letters`](crate::Node::dead_letters) of the service's name).
///
/// The deadline, as that of a [`Call`], bounds the waiting and not the work: a call that ends with `deadline_exceeded`
/// *may have run*, and unless it never reached the broker it will. To get the answer nevertheless, call again with the
/// same [key](Self::idempotency_key). Dropping the future does not cancel the call either.
///
/// ```
/// use commlib::prelude::*;
///
/// #[commlib::rpc_service(name = "orders")]
/// pub trait Orders {
///     /// Places an order once, whatever happens to callers and servers meanwhile.
///     #[rpc(durable)]
///     async fn place(&self, article: String) -> u64;
/// }
/// # struct Shop;
/// # impl Orders for Shop {
/// #     async fn place(&self, _article: String) -> u64 { 17 }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = Node::connect("memory://durable-call").await?;
/// # node.serve(OrdersServer::new(Shop)).await?;
/// let orders = OrdersClient::new(&node);
/// let place = || orders.place("lamp".to_owned()).idempotency_key("cart-4711");
/// let number = place().await?;
/// // The same key: the same answer, without another order.
/// assert_eq!(place().await?, number);
/// # Ok(()) }
/// ```
///
/// # Errors
/// As of a [`Call`]. `invalid_argument` also when the key was used for a request with another body.
#[must_use = "a call does nothing until it is awaited"]
pub struct DurableCall<T, E> {
    call: Call<T, E>,
    key: Option<String>,
}

impl<T, E> fmt::Debug for DurableCall<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DurableCall").field(&self.call).finish()
    }
}

impl<T, E> DurableCall<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self { call, key: None }
    }

    /// Names what is to be done once: calls of the method with the same key are taken for the same call, made again. The
    /// method runs for one of them; the others wait for its answer and get that, as long as the servers remember it
    /// ([`ServeRpc::remember`](super::ServeRpc::remember)). 1 to 256 bytes without control characters.
    ///
    /// By default each call has a random key, which its [retries](Self::retry) share. That covers what this node tries
    /// again by itself. Where your program may make the call once more, say after a restart, give a key of your own that
    /// comes from what is to be done, such as the number of an order.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long to wait for the answer, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call = self.call.timeout(timeout);
        self
    }

    /// Adds a header, in place of an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.call = self.call.header(name, value);
        self
    }

    /// Tries again, with the same key. See [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.call = self.call.retry(retry);
        self
    }
}

impl<T: Message, E: ServiceError> IntoFuture for DurableCall<T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { call, key } = self;
        run(call.parts, key, call.retry).map(decode).boxed()
    }
}

/// A call without its types.
fn run(mut parts: Parts, key: Option<String>, retry: Option<Retry>) -> BoxFuture<'static, Outcome> {
    async move {
        let scope = Scope::current();
        let invocation = prepare(&mut parts, key, Kind::Call, &scope)?;
        let span = call::span(&invocation.address);
        parts.run_in_full(retry, invocation, span, scope).await
    }
    .boxed()
}

/// A request to a durable method that has no reply, sent when it is awaited.
///
/// Awaiting it resolves when the broker has the request for good, and says how well it keeps it
/// ([`Accepted::durability`]). It runs as a [`DurableCall`] does. Dropping the future does not take back what was sent.
///
/// # Errors
/// [`NodeError`] with what happened to the request, at the latest after the timeout.
#[must_use = "a request is not sent until it is awaited"]
#[derive(Debug)]
pub struct DurableOneway {
    oneway: Oneway,
    key: Option<String>,
    retry: Option<Retry>,
}

impl DurableOneway {
    pub(super) fn new(oneway: Oneway) -> Self {
        Self {
            oneway,
            key: None,
            retry: None,
        }
    }

    /// As of a [`DurableCall`](DurableCall::idempotency_key).
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long the broker may take to accept it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.oneway = self.oneway.timeout(timeout);
        self
    }

    /// Adds a header, in place of an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.oneway = self.oneway.header(name, value);
        self
    }

    /// Tries again, with the same key. See [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }
}

impl IntoFuture for DurableOneway {
    type Output = Result<Accepted, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            mut oneway,
            key,
            retry,
        } = self;
        async move {
            let scope = Scope::current();
            let parts = &mut oneway.parts;
            let invocation = prepare(parts, key, Kind::Oneway, &scope).map_err(without_app)?;
            let address = &invocation.address;
            let mut tries = parts.tries(retry, invocation.deadline);
            loop {
                let span = tracing::info_span!("commlib.oneway", %address, trace_id = tracing::field::Empty);
                let failure = match parts.run(invocation.clone(), span, &scope).await {
                    Ok(reply) => return Ok(reply.accepted.unwrap_or_default()),
                    Err(failure) => failure,
                };
                if let Some(failure) = tries.after(failure).await {
                    return Err(without_app(failure));
                }
            }
        }
        .boxed()
    }
}

/// What is sent, with its key.
fn prepare(parts: &mut Parts, key: Option<String>, kind: Kind, scope: &Scope) -> Result<Invocation, Failure> {
    let address = parts.address()?;
    check_dialect(&parts.node, &address)?;
    let body = std::mem::replace(&mut parts.body, Ok(Bytes::new()))?;
    let mut headers = std::mem::take(&mut parts.headers);
    if let Some(key) = key {
        headers.insert(KEY, key);
    } else if headers.get(KEY).is_none() {
        headers.insert(KEY, id::random());
    }
    read_key(&headers)?;
    let deadline = parts.deadline(scope, Instant::now());
    Ok(Invocation::new(
        kind,
        address,
        headers,
        parts.encoded(body),
        deadline,
    ))
}

/// The key of a request.
pub(super) fn read_key(headers: &Headers) -> Result<&str, Status> {
    let bad = |reason: &str| Err(Status::new(StatusCode::InvalidArgument, reason));
    match headers.get(KEY) {
        None => bad("a request to a durable method has its idempotency key in the header `idempotency-key`"),
        Some(key) if key.is_empty() || key.len() > LONGEST => bad("an idempotency key has 1 to 256 bytes"),
        Some(key) if key.chars().any(char::is_control) => bad("an idempotency key has no control characters"),
        Some(key) => Ok(key),
    }
}

/// Refuses durable methods where the other dialect is spoken.
pub(super) fn check_dialect(node: &Node, address: &Address) -> Result<(), Status> {
    if node.config().dialect == Dialect::Native {
        return Ok(());
    }
    let text = format!(
        "the method `{address}` is durable, for which the dialect commlib-py has no form; leave out `durable`, or connect without the dialect"
    );
    Err(Status::new(StatusCode::Unimplemented, text).with_execution(Execution::DidNotRun))
}
