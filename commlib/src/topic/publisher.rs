//! Publishing.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::{coop, unconstrained};
use tokio::time::Instant;
use tracing::Instrument;

use super::TopicDescriptor;
use crate::address::Address;
use crate::codec;
use crate::envelope::Headers;
use crate::error::{LocalError, NodeError};
use crate::limits::after;
use crate::message::{CaptureError, Message};
use crate::middleware::{Invocation, Kind, Outcome};
use crate::node::{Begun, Node, Sending};
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;
use crate::transport::Accepted;

/// Publishes through a node; what generated publishers are made of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicPublisher {
    node: Node,
}

impl TopicPublisher {
    /// A publisher of this node.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        Self { node: node.clone() }
    }

    /// Prepares a message. Nothing is sent before it is awaited.
    pub fn publish<M: Message>(
        &self,
        topic: &'static TopicDescriptor,
        captures: Vec<Result<String, CaptureError>>,
        message: &M,
    ) -> Publish {
        let address = fill(topic, captures);
        let body = codec::encode(self.node.config().codec, message).map_err(LocalError::Encode);
        Publish {
            node: self.node.clone(),
            topic,
            address,
            body,
            headers: Headers::new(),
            timeout: None,
            unconfirmed: false,
            transient: false,
        }
    }
}

fn fill(
    topic: &'static TopicDescriptor,
    captures: Vec<Result<String, CaptureError>>,
) -> Result<Address, NodeError> {
    let bad = |reason: String| NodeError::Address {
        text: topic.template.to_string(),
        reason,
    };
    let levels = captures
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    topic
        .template
        .fill(&levels)
        .map_err(|error| bad(format!("with the levels {levels:?}, {error}")))
}

/// A message that is published when it is awaited.
///
/// Awaiting it resolves when the broker has the message, and says what that means there ([`Accepted`]): by default a
/// message reaches whoever listens now. One of a durable topic is kept by then for every group of the topic; how well, says
/// [`Accepted::durability`]. Dropping the future does not take back what was sent.
///
/// Of several that are awaited together, each is sent when it is first polled, in that order while the node is connected.
///
/// # Errors
/// [`NodeError`] with what happened to the message, at the latest after the timeout:
/// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout) unless the message says otherwise.
#[must_use = "a message is not published until it is awaited"]
#[derive(Debug)]
pub struct Publish {
    node: Node,
    topic: &'static TopicDescriptor,
    address: Result<Address, NodeError>,
    body: Result<Bytes, LocalError>,
    headers: Headers,
    timeout: Option<Duration>,
    unconfirmed: bool,
    transient: bool,
}

impl Publish {
    /// How long publishing may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds a header, in place of an earlier one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Does not wait until the broker has it. On RabbitMQ it resolves when the message is handed to the connection, which
    /// is several times faster: up to some 2,000 messages, or 8 MiB, may not be written by then, more of them wait. What was
    /// handed over when the connection breaks may be lost without a word ([`Accepted::unconfirmed`]); closing the node
    /// waits for it. Redis and the in-process bus answer each message anyway, and one of a durable topic is confirmed
    /// unless it is [transient](Self::transient): there it changes nothing.
    pub fn unconfirmed(mut self) -> Self {
        self.unconfirmed = true;
        self
    }

    /// A message of a durable topic that need not survive the broker: its groups get it also after being away, it is confirmed,
    /// acknowledged and tried again like every other, but RabbitMQ keeps it in memory and writes nothing to its disk
    /// ([`Durability::BrokerMemory`](crate::Durability::BrokerMemory)), which costs it much less. Once it has to
    /// rest before it is tried again, or is a dead letter, it is kept like every other. How Redis keeps messages is its
    /// own setting, and the in-process bus has no disk: there it changes nothing, nor does it for topics that are not
    /// durable.
    ///
    /// With [`unconfirmed`](Self::unconfirmed) as well, publishing does not wait for RabbitMQ, and nobody knows what became of
    /// the message before a group has it: it may be lost with the connection, and a group that is full
    /// ([`Limits::backlog`](crate::Limits::backlog)) gets it no more. That is what other libraries do by default, and the
    /// fastest way to handlers that acknowledge.
    ///
    /// On the wire it is the delivery mode 1 of [AMQP 0-9-1](https://www.rabbitmq.com/docs/publishers#message-properties).
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// Publishes at once, or says how it goes on.
    fn begin(self) -> Result<Result<Accepted, Waiting>, NodeError> {
        let (address, body) = (self.node.qualify(&self.address?)?, self.body?);
        let mut options = self.topic.options(&self.node)?;
        options.unconfirmed = self.unconfirmed;
        options.transient = self.transient;
        let node = self.node;
        let scope = Scope::current();
        let span = tracing::info_span!("commlib.publish", %address, trace_id = tracing::field::Empty);
        let mut headers = self.headers;
        TraceContext::inject(&mut headers, &scope, &span);
        let config = node.config();
        let deadline = after(Instant::now(), self.timeout.unwrap_or(config.operation_timeout));
        let invocation = Invocation::new(Kind::Publish, address, headers, (config.codec, body), deadline);
        if !config.client_middleware.is_empty() {
            let run = async move { Sending::publishing(&node, options).publish(invocation).await };
            return Ok(Err(run.instrument(span).boxed()));
        }
        let published = span.in_scope(|| node.publish_now(invocation, &options));
        Ok(match published.map_err(crate::rpc::without_app)? {
            Begun::Accepted(accepted) => Ok(accepted),
            Begun::Waits(mut waiting) => {
                let run = async move { node.publish_waiting(&mut waiting, &options, deadline).await };
                Err(run.instrument(span).boxed())
            }
        })
    }
}

impl IntoFuture for Publish {
    type Output = Result<Accepted, NodeError>;
    type IntoFuture = PublishFuture;

    fn into_future(self) -> Self::IntoFuture {
        PublishFuture(State::Prepared(self))
    }
}

/// What is not published at once.
type Waiting = BoxFuture<'static, Outcome>;

/// A [`Publish`] that was awaited.
#[must_use = "futures do nothing unless polled"]
pub struct PublishFuture(State);

enum State {
    Prepared(Publish),
    /// With middleware, or with something to wait for.
    Running(Waiting),
    /// It is done, and the task yields before it goes on.
    Done(Result<Accepted, NodeError>),
    Over,
}

impl fmt::Debug for PublishFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublishFuture").finish_non_exhaustive()
    }
}

impl Future for PublishFuture {
    type Output = Result<Accepted, NodeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Running(running) = &mut self.0 {
            let outcome = ready!(running.poll_unpin(cx));
            self.0 = State::Over;
            return Poll::Ready(accepted(outcome));
        }
        let result = match std::mem::replace(&mut self.0, State::Over) {
            // It sets out whatever the task has used up by now: those who await several at once poll the ones that had to
            // yield after the others, and the messages would change places.
            State::Prepared(publish) => match publish.begin()? {
                Ok(accepted) => Ok(accepted),
                Err(mut waiting) => match unconstrained(&mut waiting).poll_unpin(cx) {
                    Poll::Ready(outcome) => accepted(outcome),
                    Poll::Pending => {
                        self.0 = State::Running(waiting);
                        return Poll::Pending;
                    }
                },
            },
            State::Done(result) => result,
            State::Running(_) | State::Over => return Poll::Pending,
        };
        // What is done at once, as on the in-process bus, must not keep a loop of publishes from yielding.
        match coop::poll_proceed(cx) {
            Poll::Ready(budget) => {
                budget.made_progress();
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.0 = State::Done(result);
                Poll::Pending
            }
        }
    }
}

fn accepted(outcome: Outcome) -> Result<Accepted, NodeError> {
    outcome
        .map(|reply| reply.accepted.unwrap_or_default())
        .map_err(crate::rpc::without_app)
}
