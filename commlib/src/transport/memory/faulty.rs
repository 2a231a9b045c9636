//! A connection to an in-process bus on which things go wrong: stands before the real one and does what [`Weather`] draws.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::faults::Weather;
use crate::address::{Address, Pattern};
use crate::envelope::{Envelope, Malformed};
use crate::transport::{
    Accepted, Capabilities, Claim, Claimed, ConnectionState, ConsumeSpec, Consumer, DeadLetter, Delivery,
    Disposal, PublishOptions, Removal, ReplySink, Request, RequestSink, Responder, SubscribeSpec,
    Subscription, Taken, Transport, TransportError, TransportErrorKind,
};

/// A node's connection.
pub(super) struct Faulty {
    line: Arc<Line>,
    /// How long something that is never confirmed is waited for.
    limit: Duration,
}

/// What the parts of a connection share.
struct Line {
    inner: Arc<dyn Transport>,
    weather: Arc<Weather>,
    runtime: Handle,
    up: AtomicBool,
    closed: AtomicBool,
    state: watch::Sender<ConnectionState>,
    sink: OnceLock<Arc<dyn ReplySink>>,
    consumers: Mutex<Vec<Weak<Server>>>,
    subscriptions: Mutex<Vec<Weak<Listener>>>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Transport>, weather: Arc<Weather>, limit: Duration) -> Self {
        let line = Line {
            inner,
            weather,
            runtime: Handle::current(),
            up: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            state: watch::Sender::new(ConnectionState::Connected { generation: 1 }),
            sink: OnceLock::new(),
            consumers: Mutex::default(),
            subscriptions: Mutex::default(),
        };
        Self {
            line: Arc::new(line),
            limit,
        }
    }

    /// Does something that is confirmed, as fate has it. `once` is done again for a second copy.
    async fn confirmed<F>(&self, doubles: bool, once: F) -> Result<Accepted, TransportError>
    where
        F: Fn() -> BoxFuture<'static, Result<Accepted, TransportError>>,
    {
        self.line.check()?;
        let fate = self.line.weather.fate();
        if let Some(late) = fate.late {
            tokio::time::sleep(late).await;
        }
        let mut result = Ok(Accepted::default());
        if !fate.lost || fate.arrived {
            result = once().await;
            if fate.again.is_some() && doubles && result.is_ok() {
                // The copy is the broker's affair.
                let _ = once().await;
            }
        }
        self.line.cut_after(fate.cut);
        if fate.lost && result.is_ok() {
            tokio::time::sleep(self.limit).await;
            return Err(TransportError::may_have_run(
                TransportErrorKind::Timeout,
                "the broker did not confirm the message in time",
            ));
        }
        result
    }
}

impl Line {
    fn check(&self) -> Result<(), TransportError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(TransportError::closed());
        }
        if self.up.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(TransportError::did_not_run(
            TransportErrorKind::Disconnected,
            "there is no connection to the in-process bus now",
        ))
    }

    /// Breaks the connection once whatever does this is done.
    fn cut_after(self: &Arc<Self>, away: Option<Duration>) {
        if let Some(away) = away {
            let line = Arc::clone(self);
            self.runtime.spawn(async move { line.cut(away).await });
        }
    }

    async fn cut(self: Arc<Self>, away: Duration) {
        if self.closed.load(Ordering::Acquire) || !self.up.swap(false, Ordering::AcqRel) {
            return;
        }
        let before = self.state.borrow().clone();
        let generation = match before {
            ConnectionState::Connected { generation } => generation,
            _ => 0,
        };
        let reason = "the connection was cut";
        self.state.send_replace(ConnectionState::Connecting {
            attempt: 0,
            reason: reason.to_owned(),
        });
        for consumer in alive(&self.consumers) {
            consumer.down();
        }
        for subscription in alive(&self.subscriptions) {
            subscription.down();
        }
        if let Some(sink) = self.sink.get() {
            let text = format!("{reason} while a reply was awaited");
            sink.lost(TransportError::may_have_run(
                TransportErrorKind::Disconnected,
                text,
            ));
        }
        tokio::time::sleep(away).await;
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        for consumer in alive(&self.consumers) {
            if let Ok(again) = self.inner.consume(consumer.spec.clone()).await {
                consumer.up(again);
            }
        }
        for subscription in alive(&self.subscriptions) {
            let spec = &subscription.spec;
            if let Ok(again) = self.inner.subscribe(spec.clone()).await
                && subscription.up(again)
                && spec.durable.is_none()
            {
                spec.sink.gap();
            }
        }
        self.up.store(true, Ordering::Release);
        let generation = generation + 1;
        self.state.send_replace(ConnectionState::Connected { generation });
    }

    /// Does it now, or later.
    fn after(&self, delay: Option<Duration>, work: impl FnOnce() + Send + 'static) {
        match delay {
            None => work(),
            Some(delay) => {
                self.runtime.spawn(async move {
                    tokio::time::sleep(delay).await;
                    work();
                });
            }
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("inner", &self.line.inner)
            .field("weather", &self.line.weather)
            .finish_non_exhaustive()
    }
}

impl Transport for Faulty {
    fn name(&self) -> &'static str {
        self.line.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reconnects: true,
            ..self.line.inner.capabilities()
        }
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.line.state.subscribe()
    }

    fn open_inbox(&self, sink: Arc<dyn ReplySink>) -> BoxFuture<'_, Result<(), TransportError>> {
        let sink = self.line.sink.get_or_init(|| sink);
        let replies = FaultyReplies {
            sink: Arc::clone(sink),
            line: Arc::downgrade(&self.line),
        };
        self.line.inner.open_inbox(Arc::new(replies))
    }

    fn request(&self, request: Request) -> Result<(), TransportError> {
        self.line.check()?;
        let fate = self.line.weather.fate();
        self.line.cut_after(fate.cut);
        if fate.lost {
            return Ok(());
        }
        if let Some(later) = fate.again {
            let (inner, request) = (Arc::clone(&self.line.inner), request.clone());
            let later = fate.late.unwrap_or_default() + later;
            // The copy is the broker's affair: what becomes of it is told to nobody.
            self.line.after(Some(later), move || drop(inner.request(request)));
        }
        if fate.late.is_none() {
            return self.line.inner.request(request);
        }
        let (inner, sink) = (Arc::clone(&self.line.inner), self.line.sink.get().cloned());
        self.line.after(fate.late, move || {
            let id = request.message.meta.id.clone().unwrap_or_default();
            if let (Err(error), Some(sink)) = (inner.request(request), sink) {
                sink.failed(&id, error);
            }
        });
        Ok(())
    }

    fn forget(&self, id: &str) -> bool {
        self.line.inner.forget(id)
    }

    fn send(&self, request: Request) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        let inner = Arc::clone(&self.line.inner);
        let once = move || {
            let (inner, request) = (Arc::clone(&inner), request.clone());
            async move { inner.send(request).await }.boxed()
        };
        self.confirmed(true, once).boxed()
    }

    fn publish(
        &self,
        address: Address,
        message: Envelope,
        options: PublishOptions,
    ) -> BoxFuture<'_, Result<Accepted, TransportError>> {
        let inner = Arc::clone(&self.line.inner);
        let durable = options.durable.is_some();
        let once = move || {
            let (inner, address) = (Arc::clone(&inner), address.clone());
            let (message, options) = (message.clone(), options.clone());
            async move { inner.publish(address, message, options).await }.boxed()
        };
        self.confirmed(durable, once).boxed()
    }

    fn consume(&self, mut spec: ConsumeSpec) -> BoxFuture<'_, Result<Box<dyn Consumer>, TransportError>> {
        async move {
            self.line.check()?;
            spec.sink = Arc::new(FaultyRequests {
                sink: spec.sink,
                line: Arc::downgrade(&self.line),
            });
            let current = self.line.inner.consume(spec.clone()).await?;
            let consumer = Arc::new(Server::new(spec, current));
            self.line.consumers.lock().push(Arc::downgrade(&consumer));
            Ok(Box::new(Kept(consumer)) as Box<dyn Consumer>)
        }
        .boxed()
    }

    fn subscribe(&self, spec: SubscribeSpec) -> BoxFuture<'_, Result<Box<dyn Subscription>, TransportError>> {
        async move {
            self.line.check()?;
            let current = self.line.inner.subscribe(spec.clone()).await?;
            let subscription = Arc::new(Listener::new(spec, current));
            self.line.subscriptions.lock().push(Arc::downgrade(&subscription));
            Ok(Box::new(Kept(subscription)) as Box<dyn Subscription>)
        }
        .boxed()
    }

    fn dead_letters(
        &self,
        group: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeadLetter>, TransportError>> {
        let group = group.to_owned();
        async move {
            self.line.check()?;
            self.line.inner.dead_letters(&group, limit).await
        }
        .boxed()
    }

    fn dispose(
        &self,
        group: &str,
        id: &str,
        disposal: Disposal,
    ) -> BoxFuture<'_, Result<bool, TransportError>> {
        let (group, id) = (group.to_owned(), id.to_owned());
        async move {
            self.line.check()?;
            self.line.inner.dispose(&group, &id, disposal).await
        }
        .boxed()
    }

    fn remove_group(
        &self,
        topic: &Pattern,
        group: &str,
        pattern: &Pattern,
    ) -> BoxFuture<'_, Result<Removal, TransportError>> {
        let (topic, group, pattern) = (topic.clone(), group.to_owned(), pattern.clone());
        async move {
            self.line.check()?;
            self.line.inner.remove_group(&topic, &group, &pattern).await
        }
        .boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, TransportError>> {
        async move {
            self.line.check()?;
            self.line.inner.claim(claim).await
        }
        .boxed()
    }

    fn conclude(&self, claim: Claim, answer: Option<Envelope>) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            self.line.check()?;
            self.line.inner.conclude(claim, answer).await
        }
        .boxed()
    }

    fn close(&self, limit: Duration) -> BoxFuture<'_, Result<(), TransportError>> {
        self.line.closed.store(true, Ordering::Release);
        self.line.state.send_replace(ConnectionState::Closed);
        self.line.inner.close(limit)
    }
}

/// Takes the replies of a node, as fate has it.
struct FaultyReplies {
    sink: Arc<dyn ReplySink>,
    line: Weak<Line>,
}

impl ReplySink for FaultyReplies {
    fn reply(&self, id: &str, reply: Envelope) {
        let Some(line) = self.line.upgrade() else {
            return;
        };
        let fate = line.weather.fate();
        if fate.lost || line.check().is_err() {
            return;
        }
        let deliver = |delay| {
            let (sink, weak) = (Arc::clone(&self.sink), self.line.clone());
            let (id, reply) = (id.to_owned(), reply.clone());
            line.after(delay, move || {
                if weak.upgrade().is_some_and(|line| line.check().is_ok()) {
                    sink.reply(&id, reply);
                }
            });
        };
        deliver(fate.late);
        if let Some(later) = fate.again {
            deliver(Some(fate.late.unwrap_or_default() + later));
        }
    }

    fn malformed(&self, id: &str, error: Malformed) {
        self.sink.malformed(id, error);
    }

    fn failed(&self, id: &str, error: TransportError) {
        self.sink.failed(id, error);
    }

    fn lost(&self, error: TransportError) {
        self.sink.lost(error);
    }
}

/// Takes the requests of a server: says which were delivered before, and breaks the connection now and then.
struct FaultyRequests {
    sink: Arc<dyn RequestSink>,
    line: Weak<Line>,
}

impl RequestSink for FaultyRequests {
    fn deliver(&self, mut delivery: Delivery) {
        let Some(line) = self.line.upgrade() else {
            return;
        };
        let id = match &delivery.taken {
            Taken::Message(message) => message.meta.id.as_deref(),
            Taken::Malformed(_) | Taken::TooLarge { .. } => None,
        };
        delivery.redelivered |= id.is_some_and(|id| !line.weather.is_first(id));
        delivery.responder = Box::new(FaultyResponder {
            inner: delivery.responder,
            line: self.line.clone(),
        });
        line.cut_after(line.weather.fate().cut);
        self.sink.deliver(delivery);
    }
}

/// Answers while there is a connection.
struct FaultyResponder {
    inner: Box<dyn Responder>,
    line: Weak<Line>,
}

impl Responder for FaultyResponder {
    fn wants_reply(&self) -> bool {
        self.inner.wants_reply()
    }

    fn reply(self: Box<Self>, reply: Envelope) {
        match self.line.upgrade().map(|line| line.check()) {
            Some(Ok(())) => self.inner.reply(reply),
            _ => self.inner.finish(),
        }
    }

    fn finish(self: Box<Self>) {
        self.inner.finish();
    }

    fn give_back(self: Box<Self>, message: Envelope) {
        self.inner.give_back(message);
    }
}

/// What goes and comes with the connection: how it is made, and the one that there is now.
struct Returning<S, T: ?Sized> {
    spec: S,
    current: Mutex<Option<Box<T>>>,
    stopped: AtomicBool,
}

type Server = Returning<ConsumeSpec, dyn Consumer>;
type Listener = Returning<SubscribeSpec, dyn Subscription>;

impl<S, T: ?Sized> Returning<S, T> {
    fn new(spec: S, current: Box<T>) -> Self {
        Self {
            spec,
            current: Mutex::new(Some(current)),
            stopped: AtomicBool::new(false),
        }
    }

    fn down(&self) {
        let gone = self.current.lock().take();
        drop(gone);
    }

    /// Puts a new one in its place, unless it was stopped meanwhile.
    fn up(&self, again: Box<T>) -> bool {
        let mut current = self.current.lock();
        let stopped = self.stopped.load(Ordering::Acquire);
        if !stopped {
            *current = Some(again);
        }
        !stopped
    }

    /// From now on there is none; what there was is returned.
    fn end(&self) -> Option<Box<T>> {
        self.stopped.store(true, Ordering::Release);
        self.current.lock().take()
    }
}

fn alive<T>(all: &Mutex<Vec<Weak<T>>>) -> Vec<Arc<T>> {
    let mut all = all.lock();
    all.retain(|one| one.strong_count() > 0);
    all.iter().filter_map(Weak::upgrade).collect()
}

/// The handle of one that returns.
struct Kept<T>(Arc<T>);

impl Consumer for Kept<Server> {
    fn stop(&self) -> BoxFuture<'_, ()> {
        let last = self.0.end();
        async move {
            if let Some(last) = last {
                last.stop().await;
            }
        }
        .boxed()
    }
}

impl Subscription for Kept<Listener> {
    fn stop(&self) -> BoxFuture<'_, ()> {
        let last = self.0.end();
        async move {
            if let Some(last) = last {
                last.stop().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::transport::{TopicMessage, TopicSink};

    /// Whether it was stopped, and may end.
    struct Slow(Arc<Semaphore>);

    impl Subscription for Slow {
        fn stop(&self) -> BoxFuture<'_, ()> {
            async { drop(self.0.acquire().await) }.boxed()
        }
    }

    struct Nobody;

    impl TopicSink for Nobody {
        fn message(&self, _: TopicMessage) {}
        fn gap(&self) {}
        fn dropped(&self, _: &str) {}
    }

    #[test]
    fn a_stop_waits_for_what_is_stopped() {
        let spec = SubscribeSpec {
            pattern: Pattern::new("a").unwrap(),
            group: None,
            durable: None,
            max_body: 1,
            sink: Arc::new(Nobody),
        };
        let gate = Arc::new(Semaphore::new(0));
        let kept = Kept(Arc::new(Listener::new(spec, Box::new(Slow(Arc::clone(&gate))))));
        let mut stop = kept.stop();
        assert!((&mut stop).now_or_never().is_none());
        gate.add_permits(1);
        assert!(stop.now_or_never().is_some());
        assert!(!kept.0.up(Box::new(Slow(gate))), "it was stopped");
    }
}
