//! Handlers: a trait's methods run for the messages of its topics.

use std::fmt;
use std::future::IntoFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument;

use super::buffer::{Buffer, Item};
use super::subscription::{local, start};
use super::{TopicDescriptor, TopicService};
use crate::address::{Address, Pattern};
use crate::envelope::Headers;
use crate::error::{Failure, NodeError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Next, Outcome, Reply, panicked};
use crate::node::Node;
use crate::rpc::ServerHandle;
use crate::runtime::scope::Scope;
use crate::runtime::serving::{Serving, Source};
use crate::trace::TraceContext;
use crate::transport::{TopicMessage, TopicSink};

/// What a handler knows about the message. Take it as an argument `ctx: &MessageContext` of a topic's method.
#[derive(Debug)]
pub struct MessageContext {
    node: Node,
    topic: Address,
    headers: Headers,
    timestamp: Option<u64>,
}

impl MessageContext {
    /// The address that the message was published to.
    #[must_use]
    pub fn topic(&self) -> &Address {
        &self.topic
    }

    /// A header of the message. Untrusted text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// All headers of the message. Untrusted text.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// When it was published by the publisher's clock, in µs since 1970 UTC, if it said so.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        self.timestamp
    }

    /// The node that handles the message, to make calls with.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }
}

/// Settings of a topic handler. Awaiting it starts the handler and resolves when the broker has confirmed.
///
/// # Errors
/// [`NodeError`] when the broker refuses, or does not answer within
/// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout).
#[must_use = "a handler does not start until it is awaited"]
pub struct ServeTopics {
    node: Node,
    service: Arc<dyn TopicService>,
    group: Option<String>,
    concurrency: usize,
    buffer: usize,
}

impl fmt::Debug for ServeTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeTopics")
            .field("prefix", &self.service.descriptor().prefix)
            .field("group", &self.group)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl ServeTopics {
    pub(crate) fn new(node: &Node, service: Arc<dyn TopicService>) -> Self {
        Self {
            node: node.clone(),
            service,
            group: None,
            concurrency: 1,
            buffer: 256,
        }
    }

    /// Shares the messages with the other handlers of this group, on all nodes: each message goes to one of them.
    /// The name is one level of an address.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// How many messages of one topic are handled at once, at least 1. Default 1: in the order of arrival.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// How many messages of one topic wait for the handler before the oldest are dropped, at least 1. Default 256.
    pub fn buffer(mut self, messages: usize) -> Self {
        self.buffer = messages.max(1);
        self
    }

    async fn start(self) -> Result<ServerHandle, NodeError> {
        let descriptor = self.service.descriptor();
        let serving = Serving::new(descriptor.prefix);
        for topic in descriptor.topics {
            let pattern = any_level(topic)?;
            let group = self.group.clone().map(|name| (name, self.concurrency));
            let buffer = Buffer::new(self.buffer);
            let handle = start(
                &self.node,
                pattern,
                group,
                Arc::clone(&buffer) as Arc<dyn TopicSink>,
            )
            .await?;
            serving.add(Source::Subscription(Box::new(Closing {
                handle,
                buffer: Arc::clone(&buffer),
            })));
            let worker = Worker {
                node: self.node.clone(),
                service: Arc::clone(&self.service),
                serving: Arc::clone(&serving),
                topic,
            };
            serving
                .tasks
                .spawn(work(Arc::new(worker), buffer, self.concurrency));
        }
        self.node.register(Arc::clone(&serving));
        Ok(ServerHandle::new(serving))
    }
}

/// The pattern of a topic with every capture open.
fn any_level(topic: &TopicDescriptor) -> Result<Pattern, NodeError> {
    let open: Vec<Option<&str>> = topic.template.captures().map(|_| None).collect();
    topic.template.pattern(&open).map_err(|error| NodeError::Address {
        text: topic.template.to_string(),
        reason: error.to_string(),
    })
}

impl IntoFuture for ServeTopics {
    type Output = Result<ServerHandle, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

/// A subscription whose stop also ends the buffer, so that the worker drains it and ends.
struct Closing {
    handle: Box<dyn crate::transport::Subscription>,
    buffer: Arc<Buffer>,
}

impl crate::transport::Subscription for Closing {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async {
            self.handle.stop().await;
            self.buffer.close();
        }
        .boxed()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.buffer.close();
    }
}

struct Worker {
    node: Node,
    service: Arc<dyn TopicService>,
    serving: Arc<Serving>,
    topic: &'static TopicDescriptor,
}

/// Handles the messages of one topic, in order when the concurrency is 1.
async fn work(worker: Arc<Worker>, buffer: Arc<Buffer>, concurrency: usize) {
    let permits = Arc::new(Semaphore::new(concurrency));
    loop {
        // First a place to handle it in, then the message: what waits stays in the bounded buffer.
        let Ok(place) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let message = match buffer.next().await {
            Some(Item::Message(message)) => message,
            Some(Item::Lagged(messages)) => {
                tracing::warn!(topic = %worker.topic.template, messages, "messages were dropped: the handler is too slow");
                continue;
            }
            Some(Item::Gap) => {
                tracing::warn!(topic = %worker.topic.template, "the connection was away: messages may have been missed");
                continue;
            }
            None => return,
        };
        let worker = Arc::clone(&worker);
        let tasks = worker.serving.tasks.clone();
        tasks.spawn(async move {
            worker.handle(message).await;
            drop(place);
        });
    }
}

impl Worker {
    async fn handle(&self, received: TopicMessage) {
        let TopicMessage {
            address,
            message,
            permit,
        } = local(self.node.config().namespace.as_ref(), received);
        let Some(levels) = self.topic.template.extract(&address) else {
            return;
        };
        let Ok(topic) = Address::new(&address) else {
            return tracing::warn!(topic = %self.topic.template, "ignored a message whose address is outside the grammar");
        };
        let trace = TraceContext::from_headers(&message.meta.headers);
        let span = tracing::info_span!("commlib.handle", address = %topic, trace_id = tracing::field::Empty);
        if let Some(trace) = &trace {
            span.record("trace_id", trace.trace_id());
        }
        // A message has no deadline; its handler's calls have their own.
        let deadline = Instant::now() + self.node.config().call_timeout;
        let invocation = Invocation::new(Kind::Publish, topic, message.meta.headers, message.data, deadline);
        let end = Handling {
            worker: self,
            levels,
            timestamp: message.meta.timestamp,
        };
        let chain = Next::new(&self.node.config().server_middleware, &end).run(invocation);
        let work = Scope {
            deadline: None,
            trace,
        }
        .enter(AssertUnwindSafe(chain).catch_unwind())
        .instrument(span);
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|panic| Err(panicked(&address, &*panic).into())),
            () = self.serving.ended.cancelled() => {
                Err(Status::new(StatusCode::Unavailable, "the node shut down before the message was handled").into())
            }
        };
        if let Err(failure) = outcome {
            tracing::warn!(topic = address, error = ?failure, "a topic message was not handled");
        }
        drop(permit);
    }
}

/// The end of the middleware: the trait's method.
struct Handling<'a> {
    worker: &'a Worker,
    levels: Vec<String>,
    timestamp: Option<u64>,
}

impl End for Handling<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        async move {
            let context = MessageContext {
                node: self.worker.node.clone(),
                topic: invocation.address,
                headers: invocation.headers,
                timestamp: self.timestamp,
            };
            let name = self.worker.topic.name;
            let handled: Result<(), Failure> = self
                .worker
                .service
                .handle(name, &context, &self.levels, &invocation.body)
                .await;
            handled.map(|()| Reply::default())
        }
        .boxed()
    }
}
