//! Handlers: a trait's methods run for the messages of its topics.

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::consume_budget;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;
use tracing::Instrument;

use super::buffer::{Buffer, Item, Reader};
use super::subscription::{local, start};
use super::{TopicDescriptor, TopicService};
use crate::address::Address;
use crate::codec::Codec;
use crate::envelope::Headers;
use crate::error::{Execution, Failure, NodeError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Next, Outcome, Reply, panicked};
use crate::node::Node;
use crate::rpc::ServerHandle;
use crate::runtime::pace::{Pace, Waiter};
use crate::runtime::retries::{Retries, bounded, too_often};
use crate::runtime::scope::Scope;
use crate::runtime::serving::{Serving, Source};
use crate::trace::TraceContext;
use crate::transport::{TopicMessage, TopicSink, Tracked};

/// What a handler knows about the message. Take it as an argument `ctx: &MessageContext` of a topic's method.
#[derive(Debug)]
pub struct MessageContext {
    node: Node,
    topic: Address,
    headers: Headers,
    timestamp: Option<u64>,
    attempt: u32,
    codec: Codec,
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

    /// How often the message was delivered to a handler of the group, this time included: more than 1 when an earlier
    /// handler failed, or ended with its process before it was done. Always 1 unless the topic is durable.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How the publisher encoded the message.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
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
    live: bool,
    retries: Retries,
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
            buffer: node.config().limits.topic_buffer,
            live: false,
            retries: Retries::default(),
        }
    }

    /// Shares the messages with the other handlers of this group, on all nodes: each message goes to one of them.
    /// The name is one level of an address.
    ///
    /// The durable topics of the trait need a group. The broker keeps it: it gets every message since its first member
    /// joined, also after all were away, each at least once. A message is acknowledged when its handler is done. When the
    /// handler fails or panics it is handled again, up to [`attempts`](Self::attempts) times, then it becomes a dead
    /// letter ([`Node::dead_letters`]); one that can't be decoded becomes one at once.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// How many messages of one topic are handled at once, at least 1. Default 1: in the order of arrival.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// How many messages of one topic wait for the handler before the oldest are dropped, at least 1. Default
    /// [`Limits::topic_buffer`](crate::Limits::topic_buffer), 4,096.
    pub fn buffer(mut self, messages: usize) -> Self {
        self.buffer = messages.max(1);
        self
    }

    /// Handles durable topics like others: what is published while this handler runs, without a group to keep the rest.
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// How often a message of a durable topic is delivered to the group at most, at least once: to a handler that fails,
    /// or whose process ends meanwhile. Default 5.
    pub fn attempts(mut self, deliveries: u32) -> Self {
        self.retries.attempts = deliveries.max(1);
        self
    }

    /// How long a message of a durable topic rests after its handler failed: `least` after the first time, each time
    /// twice as long, up to `most`. Default 1 s to 60 s. A broker may take up to half a second longer.
    pub fn retry_delay(mut self, least: Duration, most: Duration) -> Self {
        self.retries.least = least;
        self.retries.most = most.max(least);
        self
    }

    async fn start(self) -> Result<ServerHandle, NodeError> {
        let descriptor = self.service.descriptor();
        let durable = descriptor.topics.iter().find(|topic| topic.durable);
        if let (Some(topic), None, false) = (durable, &self.group, self.live) {
            let text = format!(
                "the topic `{}` is durable, but the handler has no group that its messages could be kept for; add `.group(\"name\")`, or `.live()` to handle only what is published meanwhile",
                topic.template
            );
            return Err(Status::new(StatusCode::InvalidArgument, text)
                .with_execution(Execution::DidNotRun)
                .into());
        }
        let serving = Serving::new(descriptor.prefix);
        for topic in descriptor.topics {
            let group = self.group.clone().map(|name| (name, self.concurrency));
            // What a group takes is bounded by its permits and must not be dropped.
            let buffer = Buffer::new(self.buffer.max(self.concurrency));
            let handle = start(
                &self.node,
                Some(topic),
                topic.any_level()?,
                group,
                Arc::clone(&buffer) as Arc<dyn TopicSink>,
            )
            .await?;
            serving.add(Source::Subscription(Box::new(Closing {
                handle,
                buffer: ClosedAtEnd(Arc::clone(&buffer)),
            })));
            let worker = Worker {
                node: self.node.clone(),
                service: Arc::clone(&self.service),
                serving: Arc::clone(&serving),
                topic,
                retries: self.retries,
                pace: Pace::default(),
            };
            serving
                .tasks
                .spawn(work(Arc::new(worker), Reader::new(buffer), self.concurrency).boxed());
        }
        self.node.register(Arc::clone(&serving));
        Ok(ServerHandle::new(serving))
    }
}

impl IntoFuture for ServeTopics {
    type Output = Result<ServerHandle, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

/// A subscription whose end also ends the buffer, so that the worker drains it and ends.
struct Closing {
    /// Dropped before the buffer is closed: what is refused by one that is closed counts as an attempt.
    handle: Box<dyn crate::transport::Subscription>,
    buffer: ClosedAtEnd,
}

struct ClosedAtEnd(Arc<Buffer>);

impl crate::transport::Subscription for Closing {
    fn stop(&self) -> BoxFuture<'_, ()> {
        async {
            self.handle.stop().await;
            self.buffer.0.close();
        }
        .boxed()
    }
}

impl Drop for ClosedAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Worker {
    node: Node,
    service: Arc<dyn TopicService>,
    serving: Arc<Serving>,
    topic: &'static TopicDescriptor,
    retries: Retries,
    pace: Pace,
}

/// Handles the messages of one topic, in order when the concurrency is 1.
async fn work(worker: Arc<Worker>, mut reader: Reader, concurrency: usize) {
    let permits = Arc::new(Semaphore::new(concurrency));
    // Of the last message, if its handler was done at once: the place, and the memory of its future.
    let (mut free, mut memory) = (None, None::<ReusableBoxFuture<'static, ()>>);
    loop {
        // First a place to handle it in, then the message: what waits stays in the bounded buffer.
        let place = match free.take() {
            Some(place) => place,
            None => match Arc::clone(&permits).acquire_owned().await {
                Ok(place) => place,
                Err(_) => return,
            },
        };
        let message = match reader.next().await {
            Some(Item::Message(message)) => message,
            Some(Item::Lagged(messages)) => {
                tracing::warn!(topic = %worker.topic.template, messages, "messages were dropped: the handler is too slow");
                continue;
            }
            Some(Item::Gap) => {
                tracing::warn!(topic = %worker.topic.template, "messages may have been missed: the connection was away, or the broker did not keep them long enough");
                continue;
            }
            None => return,
        };
        if concurrency == 1 {
            // The next one waits for this one anyway.
            worker.handle(message, Instant::now()).await;
            continue;
        }
        let handling = Arc::clone(&worker).paced(message);
        let mut handling = match memory.take() {
            Some(mut memory) => {
                memory.set(handling);
                memory
            }
            None => ReusableBoxFuture::new(handling),
        };
        // A task only for what waits for something.
        if worker.pace.is_quick(Waiter::Connection)
            && handling.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            (free, memory) = (Some(place), Some(handling));
            // Where the next message is there already, nothing else lets others run.
            consume_budget().await;
        } else {
            worker.serving.tasks.spawn(async move {
                handling.await;
                drop(place);
            });
        }
    }
}

impl Worker {
    /// Handles a message, and notes whether that was done at once.
    async fn paced(self: Arc<Self>, received: TopicMessage) {
        let now = Instant::now();
        let mut begun = Some(now);
        let mut handling = pin!(self.handle(received, now));
        poll_fn(|cx| {
            let polled = handling.as_mut().poll(cx);
            match begun.take() {
                Some(begun) if polled.is_ready() => self.pace.done(begun.elapsed()),
                Some(_) => self.pace.waited(),
                None => {}
            }
            polled
        })
        .await;
    }

    async fn handle(&self, received: TopicMessage, now: Instant) {
        let TopicMessage {
            address,
            mut message,
            permit,
            tracked,
        } = local(self.node.config().namespace.as_ref(), received);
        let attempt = tracked.as_ref().map_or(1, |tracked| tracked.attempt);
        if attempt > self.retries.attempts {
            return self.settle(tracked, Verdict::Dead(too_often(attempt - 1)));
        }
        let template = &self.topic.template;
        let literal = template.literal().filter(|literal| literal.as_str() == address);
        let topic = literal.map_or_else(|| Address::new(&address), Ok);
        let (Some(levels), Ok(topic)) = (template.extract(&address), topic) else {
            tracing::warn!(topic = %self.topic.template, "ignored a message whose address is outside the grammar");
            return self.settle(
                tracked,
                Verdict::Dead("its address is none of the topic".to_owned()),
            );
        };
        let codec = match Codec::of(message.meta.content_type.as_deref()) {
            Ok(codec) => codec,
            Err(reason) => {
                tracing::warn!(topic = address, reason, "a topic message was not handled");
                return self.settle(tracked, Verdict::Dead(reason));
            }
        };
        if let Err(status) = self.node.config().receive(&mut message, codec) {
            tracing::warn!(topic = address, %status, "a topic message was not handled");
            return self.settle(tracked, Verdict::Dead(status.message));
        }
        let trace = TraceContext::from_headers(&message.meta.headers);
        let span = tracing::info_span!("commlib.handle", address = %topic, trace_id = tracing::field::Empty);
        if let Some(trace) = &trace {
            span.record("trace_id", trace.trace_id());
        }
        // A message has no deadline; its handler's calls have their own.
        let deadline = now + self.node.config().call_timeout;
        let invocation = Invocation::new(
            Kind::Publish,
            topic,
            message.meta.headers,
            (codec, message.data),
            deadline,
        );
        let end = Handling {
            worker: self,
            levels,
            timestamp: message.meta.timestamp,
            attempt,
        };
        let chain = &self.node.config().server_middleware;
        let handled = async {
            if chain.is_empty() {
                end.handle(invocation).await
            } else {
                Next::new(chain, &end).run(invocation).await
            }
        };
        let work = Scope {
            deadline: None,
            trace,
        }
        .enter(AssertUnwindSafe(handled).catch_unwind())
        .instrument(span);
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome.unwrap_or_else(|panic| Err(panicked(&address, &*panic).into())),
            () = self.serving.ended.cancelled() => {
                tracing::warn!(topic = address, "the node shut down before a topic message was handled");
                return;
            }
        };
        match outcome {
            Ok(_) => self.settle(tracked, Verdict::Handled),
            Err(failure) => {
                tracing::warn!(topic = address, attempt, error = ?failure, "a topic message was not handled");
                self.settle(tracked, self.judge(attempt, &failure));
            }
        }
        drop(permit);
    }

    /// What becomes of a message whose handler failed.
    fn judge(&self, attempt: u32, failure: &Failure) -> Verdict {
        let (reason, hopeless) = match failure {
            Failure::App(error) => (error.message.clone(), false),
            Failure::Status(status) => (status.to_string(), status.code == StatusCode::InvalidArgument),
            Failure::Local(error) => (error.to_string(), false),
        };
        let reason = bounded(reason);
        if hopeless || attempt >= self.retries.attempts {
            Verdict::Dead(reason)
        } else {
            Verdict::Again(self.retries.delay(attempt))
        }
    }

    fn settle(&self, tracked: Option<Tracked>, verdict: Verdict) {
        let Some(Tracked { attempt, settle, .. }) = tracked else {
            return;
        };
        match verdict {
            Verdict::Handled => settle.handled(),
            Verdict::Again(after) => settle.again(after),
            Verdict::Dead(reason) => {
                tracing::error!(topic = %self.topic.template, attempt, reason, "a message of a durable topic is given up");
                settle.dead(reason);
            }
        }
    }
}

/// What becomes of a message.
enum Verdict {
    Handled,
    Again(Duration),
    Dead(String),
}

/// The end of the middleware: the trait's method.
struct Handling<'a> {
    worker: &'a Worker,
    levels: Vec<String>,
    timestamp: Option<u64>,
    attempt: u32,
}

impl Handling<'_> {
    async fn handle(&self, invocation: Invocation) -> Outcome {
        let context = MessageContext {
            node: self.worker.node.clone(),
            topic: invocation.address,
            headers: invocation.headers,
            timestamp: self.timestamp,
            attempt: self.attempt,
            codec: invocation.codec,
        };
        let name = self.worker.topic.name;
        let handled: Result<(), Failure> = self
            .worker
            .service
            .handle(name, &context, &self.levels, &invocation.body)
            .await;
        handled.map(|()| Reply::default())
    }
}

impl End for Handling<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        self.handle(invocation).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;

    /// A subscription that hands over a last message while it ends.
    struct Ending(Arc<Buffer>);

    impl crate::transport::Subscription for Ending {
        fn stop(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }
    }

    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.message(TopicMessage {
                address: "last".to_owned(),
                message: Envelope::default(),
                permit: None,
                tracked: None,
            });
        }
    }

    #[test]
    fn a_dropped_subscription_ends_before_its_buffer() {
        let buffer = Buffer::new(1);
        let mut reader = Reader::new(Arc::clone(&buffer));
        drop(Closing {
            handle: Box::new(Ending(Arc::clone(&buffer))),
            buffer: ClosedAtEnd(buffer),
        });
        let mut next = || reader.next().now_or_never().expect("nothing to wait for");
        assert!(matches!(next(), Some(Item::Message(_))));
        assert!(next().is_none());
    }
}
