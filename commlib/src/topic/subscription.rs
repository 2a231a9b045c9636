//! Subscriptions: streams of typed messages and of notices about what was missed.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::buffer::{Buffer, Item, Reader};
use super::{Captures, TopicDescriptor};
use crate::address::{Address, Pattern};
use crate::codec::{self, Codec};
use crate::envelope::Headers;
use crate::error::NodeError;
use crate::message::{CaptureError, Message};
use crate::node::{Config, Node};
use crate::runtime::retries::{Retries, too_often};
use crate::transport::{self, DurableSpec, Group, SubscribeSpec, TopicMessage, TopicSink, Tracked};

/// Subscribes through a node; what generated subscribers are made of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicSubscriber {
    node: Node,
}

impl TopicSubscriber {
    /// A subscriber of this node.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        Self { node: node.clone() }
    }

    /// Prepares a subscription. Nothing is listened to before it is awaited.
    pub fn subscribe<M: Message, C: Captures>(
        &self,
        topic: &'static TopicDescriptor,
        selectors: Vec<Result<Option<String>, CaptureError>>,
    ) -> Subscribe<M, C> {
        let pattern = select(topic, selectors);
        Subscribe::new(self.node.clone(), Some(topic), pattern)
    }

    /// Prepares a subscription without a contract: to a pattern, for any type, for tools. Nothing is listened to
    /// before it is awaited.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commlib::{Node, Pattern, topic::TopicSubscriber};
    /// let node = Node::connect("memory://untyped").await?;
    /// let messages = TopicSubscriber::new(&node).pattern::<serde_json::Value>(Pattern::new("sensors.#")?).await?;
    /// # drop(messages);
    /// # Ok(()) }
    /// ```
    pub fn pattern<M: Message>(&self, pattern: Pattern) -> Subscribe<M, ()> {
        Subscribe::new(self.node.clone(), None, Ok(pattern))
    }
}

fn select(
    topic: &'static TopicDescriptor,
    selectors: Vec<Result<Option<String>, CaptureError>>,
) -> Result<Pattern, NodeError> {
    let bad = |reason: String| NodeError::Address {
        text: topic.template.to_string(),
        reason,
    };
    let levels = selectors
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    topic
        .template
        .pattern(&levels)
        .map_err(|error| bad(format!("with the levels {levels:?}, {error}")))
}

/// A subscription that begins when it is awaited, which resolves when the broker has confirmed it.
///
/// # Errors
/// [`NodeError`] when a level is unusable, or the broker refuses or does not answer within
/// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout).
#[must_use = "nothing is listened to until it is awaited"]
pub struct Subscribe<M, C> {
    pub(super) node: Node,
    pub(super) topic: Option<&'static TopicDescriptor>,
    pub(super) pattern: Result<Pattern, NodeError>,
    buffer: usize,
    group: Option<String>,
    attempts: u32,
    message: PhantomData<fn() -> (M, C)>,
}

impl<M, C> fmt::Debug for Subscribe<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("pattern", &self.pattern)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl<M, C> Subscribe<M, C> {
    fn new(node: Node, topic: Option<&'static TopicDescriptor>, pattern: Result<Pattern, NodeError>) -> Self {
        Self {
            buffer: node.config().limits.topic_buffer,
            node,
            topic,
            pattern,
            group: None,
            attempts: Retries::default().attempts,
            message: PhantomData,
        }
    }

    /// How many messages wait for a slow reader before the oldest are dropped, at least 1. Default
    /// [`Limits::topic_buffer`](crate::Limits::topic_buffer), 4,096.
    ///
    /// When half of it is full, what can wait for the reader does: a publisher on the in-process bus, and on Redis the
    /// connection that takes this node's topics. Either waits for 50 ms at most, and not again before the reader has caught
    /// up. So a reader that only the publishers' speed puts behind misses nothing, and one that stands still holds nobody
    /// up.
    pub fn buffer(mut self, messages: usize) -> Self {
        self.buffer = messages.max(1);
        self
    }

    /// Shares the messages with the other subscriptions of this group, on all nodes: each message goes to one of
    /// them. The name is one level of an address. A reader that is slow takes fewer; none are dropped here.
    ///
    /// Of a durable topic the group is kept by the broker: it gets every message since its first member joined, also
    /// after all members were away, each at least once. A message counts as handled when the reader asks for the next
    /// one; until then it is delivered to another member should this one end. Without a group the subscription hears
    /// what is published while it listens, as of any topic.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// How often a message of a durable topic is delivered to the group at most, at least once. One that was delivered
    /// as often and never handled becomes a dead letter ([`Node::dead_letters`]). Default 5.
    pub fn attempts(mut self, deliveries: u32) -> Self {
        self.attempts = deliveries.max(1);
        self
    }
}

impl<M: Message, C: Captures> IntoFuture for Subscribe<M, C> {
    type Output = Result<Subscription<M, C>, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let buffer = Buffer::new(self.buffer);
            let group = self.group.map(|name| (name, self.buffer));
            let handle = start(
                &self.node,
                self.topic,
                self.pattern?,
                group,
                Arc::clone(&buffer) as Arc<dyn TopicSink>,
            )
            .await?;
            Ok(Subscription {
                node: self.node,
                reader: Reader::new(buffer),
                topic: self.topic,
                attempts: self.attempts,
                unsettled: None,
                handle,
                message: PhantomData,
            })
        }
        .boxed()
    }
}

/// Subscribes at the transport, once there is a connection.
pub(super) async fn start(
    node: &Node,
    topic: Option<&TopicDescriptor>,
    pattern: Pattern,
    group: Option<(String, usize)>,
    sink: Arc<dyn TopicSink>,
) -> Result<Box<dyn transport::Subscription>, NodeError> {
    node.check_open()?;
    if let Some((name, _)) = &group {
        check_group(name)?;
    }
    let pattern = node.qualify_pattern(&pattern)?;
    let durable = match (&group, topic) {
        (Some((name, _)), Some(topic)) if topic.durable => {
            topic.check_dialect(node)?;
            Some(DurableSpec {
                topic: node.qualify_pattern(&topic.any_level()?)?,
                dead_letters: below_namespace(node, name)?,
                requests: false,
            })
        }
        _ => None,
    };
    let permits = group
        .as_ref()
        .map(|(_, concurrency)| Arc::new(Semaphore::new(*concurrency)));
    let deadline = Instant::now() + node.config().operation_timeout;
    let handle = node
        .when_connected(deadline, || {
            let group = group
                .clone()
                .zip(permits.clone())
                .map(|((name, concurrency), permits)| Group {
                    name,
                    permits,
                    concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
                });
            let (pattern, sink) = (pattern.clone(), Arc::clone(&sink));
            let spec = SubscribeSpec {
                pattern,
                group,
                durable: durable.clone(),
                max_body: node.config().limits.body_in,
                sink,
            };
            let transport = Arc::clone(node.transport());
            async move { transport.subscribe(spec).await }.boxed()
        })
        .await?;
    Ok(handle)
}

/// Refuses what is no name of a group.
pub(super) fn check_group(name: &str) -> Result<(), NodeError> {
    if Address::new(name).is_ok() && !name.contains('.') {
        return Ok(());
    }
    let reason = "a group's name is one level of an address: letters, digits, `_` and `-`".to_owned();
    Err(NodeError::Address {
        text: name.to_owned(),
        reason,
    })
}

/// The name of a group as it is below the node's namespace.
pub(super) fn below_namespace(node: &Node, group: &str) -> Result<String, NodeError> {
    let name = Address::new(group).map_err(|error| NodeError::Address {
        text: group.to_owned(),
        reason: error.to_string(),
    })?;
    node.qualify(&name).map(|name| name.to_string())
}

/// A message of a topic, with the levels of its address that the topic leaves open.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Received<M, C = ()> {
    /// The message.
    pub message: M,
    /// The captured levels, in the order of the topic's template.
    pub captures: C,
    /// The address that it was published to.
    pub topic: String,
    /// The headers. Untrusted text.
    pub headers: Headers,
    /// When it was published by the publisher's clock, in µs since 1970 UTC, if it said so.
    pub timestamp: Option<u64>,
    /// How often the broker delivered it to a member of the group, this time included. 1 unless the topic is durable.
    pub attempt: u32,
}

/// A notice in place of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The reader was too slow, or messages were unusable: so many were dropped.
    #[error("{0} messages were dropped; read faster, or raise the buffer")]
    Lagged(u64),
    /// Messages may have been missed: the connection was away; or, in a group of a durable topic, the broker has removed
    /// messages before the group came to them.
    #[error(
        "messages may have been missed: the connection was away, or the broker did not keep them long enough"
    )]
    Gap,
    /// A message is not of the declared type.
    #[error("a message on `{topic}` is not of the declared type: {reason}")]
    Decode {
        /// The address that it was published to.
        topic: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A stream of messages. Dropping it ends the subscription.
///
/// It goes on over reconnects, and ends only with its node or after [`stop`](Self::stop).
pub struct Subscription<M, C = ()> {
    reader: Reader,
    topic: Option<&'static TopicDescriptor>,
    attempts: u32,
    /// The message of a durable topic that the reader has: handled when it asks for the next.
    unsettled: Option<Tracked>,
    /// Keeps the connection up for as long as there is something to listen with.
    node: Node,
    handle: Box<dyn transport::Subscription>,
    message: PhantomData<fn() -> (M, C)>,
}

impl<M, C> fmt::Debug for Subscription<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic.map(|topic| &topic.template))
            .finish_non_exhaustive()
    }
}

impl<M: Message, C: Captures> Subscription<M, C> {
    /// The next message or notice; `None` after the end.
    ///
    /// Cancellation safe: a message is either returned or stays.
    pub async fn next(&mut self) -> Option<Result<Received<M, C>, RecvError>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Stops listening at the broker. What is in the buffer can still be read; then the stream ends.
    pub async fn stop(&mut self) {
        self.handle.stop().await;
        self.reader.close();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Received<M, C>, RecvError>>> {
        if let Some(handled) = self.unsettled.take() {
            handled.settle.handled();
        }
        loop {
            let Some(item) = ready!(self.reader.poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let message = match item {
                Item::Message(message) => message,
                Item::Lagged(messages) => return Poll::Ready(Some(Err(RecvError::Lagged(messages)))),
                Item::Gap => return Poll::Ready(Some(Err(RecvError::Gap))),
            };
            if let Some(received) = self.take(message) {
                return Poll::Ready(Some(received));
            }
        }
    }

    /// Reads a message; `None` if it is given up.
    fn take(&mut self, message: TopicMessage) -> Option<Result<Received<M, C>, RecvError>> {
        let mut message = local(self.node.config().namespace.as_ref(), message);
        let tracked = message.tracked.take();
        let attempt = tracked.as_ref().map_or(1, |tracked| tracked.attempt);
        if attempt > self.attempts {
            if let Some(tracked) = tracked {
                tracked.settle.dead(too_often(attempt - 1));
            }
            return None;
        }
        let received = decode(self.node.config(), self.topic, message, attempt);
        match (&received, tracked) {
            (Ok(_), tracked) => self.unsettled = tracked,
            (Err(error), Some(tracked)) => tracked.settle.dead(error.to_string()),
            (Err(_), None) => {}
        }
        Some(received)
    }
}

/// A message with the address as it is within the namespace.
pub(super) fn local(namespace: Option<&Address>, mut message: TopicMessage) -> TopicMessage {
    if let Some(address) = namespace.and_then(|namespace| namespace.strip(&message.address)) {
        message.address = address.to_owned();
    }
    message
}

fn decode<M: Message, C: Captures>(
    config: &Config,
    topic: Option<&TopicDescriptor>,
    received: TopicMessage,
    attempt: u32,
) -> Result<Received<M, C>, RecvError> {
    let TopicMessage {
        address, mut message, ..
    } = received;
    let mut read = || {
        let levels = topic
            .and_then(|topic| topic.template.extract(&address))
            .unwrap_or_default();
        let captures = C::from_levels(&levels).map_err(|error| error.to_string())?;
        let codec = Codec::of(message.meta.content_type.as_deref())?;
        config
            .receive(&mut message, codec)
            .map_err(|status| status.message)?;
        Ok((codec::decode(codec, &message.data)?, captures))
    };
    match read() {
        Ok((body, captures)) => Ok(Received {
            message: body,
            captures,
            topic: address,
            headers: message.meta.headers,
            timestamp: message.meta.timestamp,
            attempt,
        }),
        Err(reason) => Err(RecvError::Decode {
            topic: address,
            reason,
        }),
    }
}

impl<M: Message, C: Captures> Stream for Subscription<M, C> {
    type Item = Result<Received<M, C>, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}
