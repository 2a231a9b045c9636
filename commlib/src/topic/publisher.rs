//! Publishing.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::Instrument;

use super::TopicDescriptor;
use crate::address::Address;
use crate::codec;
use crate::envelope::Headers;
use crate::error::{LocalError, NodeError};
use crate::message::{CaptureError, Message};
use crate::middleware::{Invocation, Kind};
use crate::node::{Node, Sending};
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

    /// Does not wait until the broker has it: resolves when it is written to the connection. On RabbitMQ that is several
    /// times faster; what was written when the connection breaks may be lost without a word
    /// ([`Accepted::unconfirmed`]). Redis and the in-process bus answer each message anyway, and one of a durable topic is
    /// always confirmed: there it changes nothing.
    pub fn unconfirmed(mut self) -> Self {
        self.unconfirmed = true;
        self
    }

    async fn run(self) -> Result<Accepted, NodeError> {
        let (address, body) = (self.node.qualify(&self.address?)?, self.body?);
        let mut options = self.topic.options(&self.node)?;
        options.unconfirmed = self.unconfirmed;
        let scope = Scope::current();
        let config = self.node.config();
        let span = tracing::info_span!("commlib.publish", %address, trace_id = tracing::field::Empty);
        let mut headers = self.headers;
        TraceContext::inject(&mut headers, &scope, &span);
        let deadline = Instant::now() + self.timeout.unwrap_or(config.operation_timeout);
        let invocation = Invocation::new(Kind::Publish, address, headers, (config.codec, body), deadline);
        let sending = Sending::publishing(&self.node, options);
        let outcome = sending.publish(invocation).instrument(span).await;
        outcome
            .map(|reply| reply.accepted.unwrap_or_default())
            .map_err(crate::rpc::without_app)
    }
}

impl IntoFuture for Publish {
    type Output = Result<Accepted, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}
