//! What leaves a node: requests and their replies, one-way requests, topic messages, cancellations.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::{Node, is_unsent};
use crate::address::Address;
use crate::envelope::{APPLICATION, Dialect, Envelope, Meta, WireError};
use crate::error::{AppFailure, Execution, Failure, LocalError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Outcome, Reply, check_headers};
use crate::runtime::pending::{Outcome as CallOutcome, PendingCall, Progress};
use crate::runtime::{id, now_micros};
use crate::transport::{PublishOptions, Request, TransportError};

impl Node {
    fn envelope(&self, id: String, invocation: Invocation, now: Instant) -> Result<Envelope, Failure> {
        check_headers(&invocation.headers)?;
        let (size, limit) = (invocation.body.len(), self.inner.config.max_body);
        if size > limit {
            return Err(LocalError::TooLarge {
                what: "the body",
                size,
                limit,
            }
            .into());
        }
        let left = invocation.deadline.saturating_duration_since(now);
        Ok(Envelope {
            data: invocation.body,
            meta: Meta {
                id: Some(id),
                timestamp: Some(now_micros()),
                timeout_ms: (invocation.kind != Kind::Publish).then(|| whole_ms(left)),
                headers: invocation.headers,
                ..Meta::default()
            },
        })
    }

    async fn call(&self, invocation: Invocation) -> Outcome {
        let (address, deadline) = (&invocation.address, invocation.deadline);
        self.check_open()?;
        loop {
            self.open_inbox(deadline).await?;
            let tried = match InFlight::start(self, invocation.clone(), Instant::now()) {
                Ok(call) => call.await,
                Err(stopped) => Err(stopped),
            };
            let unsent = match tried {
                Ok(reply) => return Ok(reply),
                Err(Stopped::Failed(failure)) => return Err(failure),
                Err(Stopped::Unsent(error)) => error,
            };
            // What certainly did not reach the broker waits for the next connection.
            tracing::debug!(%address, error = %unsent, "a request waits for a connection");
            self.connected(deadline).await?;
        }
    }

    /// Whether a call can be sent at once, without waiting for an inbox or going through middleware.
    pub(crate) fn is_direct(&self) -> bool {
        self.inner.inbox.initialized() && self.inner.config.client_middleware.is_empty()
    }

    fn take_reply(reply: Envelope) -> Outcome {
        match reply.meta.error {
            None => Ok(Reply::new(reply.data)),
            Some(error) if error.code == APPLICATION => {
                Err(Failure::App(AppFailure::new(error.message, error.details)))
            }
            Some(error) => Err(Status::from(error).into()),
        }
    }

    async fn oneway(&self, invocation: Invocation) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), invocation, Instant::now())?;
        let accepted = self
            .when_connected(deadline, || {
                let time_to_live = deadline.saturating_duration_since(Instant::now());
                let request = Request {
                    address: address.clone(),
                    message: message.clone(),
                    time_to_live,
                };
                let transport = Arc::clone(&self.inner.transport);
                async move { transport.send(request).await }.boxed()
            })
            .await?;
        Ok(Reply::accepted(accepted))
    }

    async fn publish(&self, invocation: Invocation, options: &PublishOptions) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), invocation, Instant::now())?;
        let accepted = self
            .when_connected(deadline, || {
                let transport = Arc::clone(&self.inner.transport);
                let (address, message, options) = (address.clone(), message.clone(), options.clone());
                async move { transport.publish(address, message, options).await }.boxed()
            })
            .await?;
        Ok(Reply::accepted(accepted))
    }

    /// Tells whoever has the request that nobody waits for it any more.
    fn cancel(&self, address: &Address, id: &str) {
        if self.inner.config.dialect != Dialect::Native || self.is_closed() {
            return;
        }
        let Some(topic) = cancel_address(address) else {
            return;
        };
        let message = Envelope {
            data: Bytes::from(serde_json::json!({ "id": id }).to_string()),
            meta: Meta {
                id: Some(id::random()),
                timestamp: Some(now_micros()),
                ..Meta::default()
            },
        };
        let transport = Arc::clone(&self.inner.transport);
        let limit = self.inner.config.operation_timeout;
        self.inner.handle.spawn(async move {
            match tokio::time::timeout(
                limit,
                transport.publish(topic, message, PublishOptions::default()),
            )
            .await
            {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a cancellation was not sent"),
                Err(_) => tracing::debug!("a cancellation was not sent in time"),
            }
        });
    }
}

/// Where cancellations of a method's service are published: the method's address without its last level.
fn cancel_address(method: &Address) -> Option<Address> {
    let (service, _) = method.as_str().rsplit_once('.')?;
    cancel_topic(service)
}

/// Where the cancellations of a service are published.
pub(crate) fn cancel_topic(service: &str) -> Option<Address> {
    Address::new(format!("_commlib.cancel.{service}")).ok()
}

/// A time left in ms, at least 1 as long as there is any.
fn whole_ms(left: Duration) -> u64 {
    u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

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

/// A request that was handed to the transport. Dropping it before its end tells the server that nobody waits any more.
pub(crate) struct InFlight {
    node: Node,
    address: Address,
    call: PendingCall,
    started: Instant,
    deadline: Instant,
    /// Set when the deadline is near.
    timer: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl InFlight {
    /// Sends the request of a call, or says at once how that ended. The inbox is open.
    pub(crate) fn start(node: &Node, invocation: Invocation, now: Instant) -> Result<Self, Stopped> {
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let pending = &node.inner.pending;
        let Some(call) = pending.register(now, deadline) else {
            let limit = pending.limit();
            let text = format!("{limit} calls are in flight already; see `NodeBuilder::max_in_flight`");
            return Err(Failure::from(Status::new(StatusCode::ResourceExhausted, text)).into());
        };
        let request = Request {
            address: address.clone(),
            time_to_live: deadline.saturating_duration_since(now),
            message: node.envelope(call.id().text(), invocation, now)?,
        };
        node.inner.transport.request(request)?;
        Ok(Self {
            node: node.clone(),
            address,
            call,
            started: now,
            deadline,
            timer: None,
            over: false,
        })
    }

    fn timed_out(&mut self) -> Status {
        self.over = true;
        let (address, waited) = (&self.address, self.deadline - self.started);
        let id = self.call.id().text();
        if self.node.inner.transport.forget(&id) {
            return Status::new(
                StatusCode::DeadlineExceeded,
                format!("the request to `{address}` could not be sent within {waited:?}"),
            )
            .with_execution(Execution::DidNotRun);
        }
        self.node.cancel(address, &id);
        let hint = if self.node.inner.transport.capabilities().no_responders {
            ""
        } else {
            "; nobody may be serving it"
        };
        Status::new(
            StatusCode::DeadlineExceeded,
            format!("no reply from `{address}` within {waited:?}{hint}"),
        )
    }

    fn timer(&mut self) -> Pin<&mut Sleep> {
        let (node, deadline) = (&self.node, self.deadline);
        self.timer
            .get_or_insert_with(|| {
                // An executor that is not tokio's has no timers; the node's runtime has.
                let _entered = Handle::try_current().is_err().then(|| node.inner.handle.enter());
                Box::pin(tokio::time::sleep_until(deadline))
            })
            .as_mut()
    }
}

impl Future for InFlight {
    type Output = Result<Reply, Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A reply that is there at once, as on the in-process bus, must not keep a loop of calls from yielding.
        let budget = ready!(coop::poll_proceed(cx));
        let outcome = match self.call.poll(cx) {
            Progress::Done(outcome) => outcome,
            Progress::Waiting => return Poll::Pending,
            Progress::Near => {
                ready!(self.timer().poll(cx));
                return Poll::Ready(Err(Failure::from(self.timed_out()).into()));
            }
        };
        budget.made_progress();
        self.over = true;
        Poll::Ready(match outcome {
            CallOutcome::Reply(reply) => Node::take_reply(reply).map_err(Stopped::from),
            CallOutcome::Malformed(error) => Err(Failure::from(LocalError::Decode(error.to_string())).into()),
            CallOutcome::Failed(error) => Err(error.into()),
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let id = self.call.id().text();
        if !self.node.inner.transport.forget(&id) {
            self.node.cancel(&self.address, &id);
        }
    }
}

/// The end of the client's middleware: hands the invocation to the transport.
pub(crate) struct Sending<'a> {
    node: &'a Node,
    options: PublishOptions,
}

impl<'a> Sending<'a> {
    /// For calls.
    pub(crate) fn new(node: &'a Node) -> Self {
        Self::publishing(node, PublishOptions::default())
    }

    /// For messages of topics.
    pub(crate) fn publishing(node: &'a Node, options: PublishOptions) -> Self {
        Self { node, options }
    }
}

impl End for Sending<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        match invocation.kind {
            Kind::Call => self.node.call(invocation).boxed(),
            Kind::Oneway => self.node.oneway(invocation).boxed(),
            Kind::Publish => self.node.publish(invocation, &self.options).boxed(),
        }
    }
}

/// The error of a reply as it goes on the wire.
pub(crate) fn wire_error(failure: Failure) -> WireError {
    match failure {
        Failure::App(error) => WireError {
            code: APPLICATION.to_owned(),
            message: error.message,
            details: error.details,
            execution: Some(Execution::Failed),
        },
        Failure::Status(status) => (&status).into(),
        // What failed on this side is nothing that a peer can use.
        Failure::Local(error) => {
            tracing::error!(%error, "a handler's reply could not be sent");
            (&Status::new(StatusCode::Internal, "the handler failed")).into()
        }
    }
}
