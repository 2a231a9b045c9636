//! What leaves a node: requests and their replies, one-way requests, topic messages, cancellations.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Node, is_unsent};
use crate::address::Address;
use crate::envelope::{APPLICATION, Dialect, Envelope, Meta, WireError};
use crate::error::{AppFailure, Execution, Failure, LocalError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Outcome, check_headers};
use crate::runtime::pending::Outcome as CallOutcome;
use crate::runtime::{id, now_micros};
use crate::transport::Request;

impl Node {
    fn envelope(&self, id: String, invocation: &Invocation) -> Result<Envelope, Failure> {
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
        let left = invocation.deadline.saturating_duration_since(Instant::now());
        Ok(Envelope {
            data: invocation.body.clone(),
            meta: Meta {
                id: Some(id),
                timestamp: Some(now_micros()),
                timeout_ms: (invocation.kind != Kind::Publish).then(|| whole_ms(left)),
                headers: invocation.headers.clone(),
                ..Meta::default()
            },
        })
    }

    async fn call(&self, invocation: Invocation) -> Outcome {
        let (address, deadline) = (&invocation.address, invocation.deadline);
        self.check_open()?;
        loop {
            self.open_inbox(deadline).await?;
            let unsent = match self.call_once(&invocation).await? {
                CallOutcome::Reply(reply) => return self.take_reply(reply),
                CallOutcome::Malformed(error) => return Err(LocalError::Decode(error.to_string()).into()),
                CallOutcome::Failed(error) => error,
            };
            // What certainly did not reach the broker waits for the next connection.
            if !is_unsent(&unsent) {
                return Err(Status::from(unsent).into());
            }
            tracing::debug!(%address, error = %unsent, "a request waits for a connection");
            self.connected(deadline).await?;
        }
    }

    /// Sends a request once and waits for how that ends.
    async fn call_once(&self, invocation: &Invocation) -> Result<CallOutcome, Failure> {
        let Some(call) = self.inner.pending.register() else {
            let limit = self.inner.pending.limit();
            let text = format!("{limit} calls are in flight already; see `NodeBuilder::max_in_flight`");
            return Err(Status::new(StatusCode::ResourceExhausted, text).into());
        };
        let deadline = invocation.deadline;
        let started = Instant::now();
        let request = Request {
            address: invocation.address.clone(),
            message: self.envelope(call.id().to_owned(), invocation)?,
            time_to_live: deadline.saturating_duration_since(started),
        };
        if let Err(error) = self.inner.transport.request(request) {
            return Ok(CallOutcome::Failed(error));
        }
        let mut sent = SentCall {
            node: self,
            address: &invocation.address,
            id: call.id().to_owned(),
            over: false,
        };
        match tokio::time::timeout_at(deadline, call).await {
            Ok(outcome) => {
                sent.over = true;
                Ok(outcome)
            }
            Err(_) => Err(sent.timed_out(deadline - started).into()),
        }
    }

    fn take_reply(&self, reply: Envelope) -> Outcome {
        match reply.meta.error {
            None => Ok(reply.data),
            Some(error) if error.code == APPLICATION => {
                Err(Failure::App(AppFailure::new(error.message, error.details)))
            }
            Some(error) => Err(Status::from(error).into()),
        }
    }

    async fn oneway(&self, invocation: Invocation) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), &invocation)?;
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
        Ok(crate::rpc::encode_accepted(accepted))
    }

    async fn publish(&self, invocation: Invocation) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let message = self.envelope(id::random(), &invocation)?;
        let accepted = self
            .when_connected(deadline, || {
                let transport = Arc::clone(&self.inner.transport);
                let (address, message) = (address.clone(), message.clone());
                async move { transport.publish(address, message).await }.boxed()
            })
            .await?;
        Ok(crate::rpc::encode_accepted(accepted))
    }

    /// Tells whoever has the request that nobody waits for it any more.
    fn cancel(&self, address: &Address, id: &str) {
        if self.inner.config.dialect != Dialect::Native || self.inner.closed.is_cancelled() {
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
            match tokio::time::timeout(limit, transport.publish(topic, message)).await {
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

/// A request that was handed to the transport: what must happen when its caller stops waiting.
struct SentCall<'a> {
    node: &'a Node,
    address: &'a Address,
    id: String,
    over: bool,
}

impl SentCall<'_> {
    fn timed_out(&mut self, waited: Duration) -> Status {
        self.over = true;
        let address = self.address;
        if self.node.inner.transport.forget(&self.id) {
            return Status::new(
                StatusCode::DeadlineExceeded,
                format!("the request to `{address}` could not be sent within {waited:?}"),
            )
            .with_execution(Execution::DidNotRun);
        }
        self.node.cancel(address, &self.id);
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
}

impl Drop for SentCall<'_> {
    fn drop(&mut self) {
        if !self.over && !self.node.inner.transport.forget(&self.id) {
            self.node.cancel(self.address, &self.id);
        }
    }
}

/// The end of the client's middleware: hands the invocation to the transport.
pub(crate) struct Sending<'a> {
    pub(crate) node: &'a Node,
}

impl End for Sending<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        match invocation.kind {
            Kind::Call => self.node.call(invocation).boxed(),
            Kind::Oneway => self.node.oneway(invocation).boxed(),
            Kind::Publish => self.node.publish(invocation).boxed(),
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
