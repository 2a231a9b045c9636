//! Serving durable methods: takes the requests that the broker kept, handles each at least once, settles it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::dispatch::{Received, Server, still_waits};
use super::handling::{Handling, refusal, refuse};
use super::once::{Once, give_up};
use crate::address::{Address, Pattern};
use crate::codec::Codec;
use crate::envelope::Envelope;
use crate::error::{Execution, NodeError, Status, StatusCode};
use crate::node::Node;
use crate::runtime::cancel::Cancel;
use crate::runtime::retries::{Retries, bounded, too_often};
use crate::runtime::serving::Source;
use crate::transport::{
    DurableSpec, Group, Responder, Settle, SubscribeSpec, TopicMessage, TopicSink, durable,
};

/// Until when a handler may work: nobody's waiting bounds it.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a server treats requests to durable methods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) retries: Retries,
    /// How long answers are remembered.
    pub(super) window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retries: Retries::default(),
            window: Duration::from_secs(600),
        }
    }
}

impl Settings {
    /// Joins the servers of each durable method.
    pub(super) fn start<'a>(
        self,
        node: &'a Node,
        service: &'a Address,
        server: &'a Arc<Server>,
        concurrency: u32,
    ) -> BoxFuture<'a, Result<(), NodeError>> {
        if !durable::BUILT {
            // The macros take no durable method then; whoever writes a descriptor by hand is told here.
            let asked = server.methods().any(|(_, it)| it.durable);
            let refused = asked.then(|| Status::from(durable::not_built()).into());
            return std::future::ready(refused.map_or(Ok(()), Err)).boxed();
        }
        self.join(node, service, server, concurrency).boxed()
    }

    async fn join(
        self,
        node: &Node,
        service: &Address,
        server: &Arc<Server>,
        concurrency: u32,
    ) -> Result<(), NodeError> {
        let deadline = Instant::now() + node.config().operation_timeout;
        for (method, descriptor) in server.methods().filter(|(_, it)| it.durable) {
            let address = node.qualify(&descriptor.address)?;
            let sink = Arc::new(Requests {
                server: Arc::clone(server),
                method,
                address: address.clone(),
                settings: self,
            });
            let pattern = Pattern::from(address);
            let permits = Arc::new(Semaphore::new(concurrency as usize));
            let subscription = node
                .when_connected(deadline, || {
                    let spec = SubscribeSpec {
                        pattern: pattern.clone(),
                        group: Some(Group {
                            name: "servers".to_owned(),
                            permits: Arc::clone(&permits),
                            concurrency,
                        }),
                        durable: Some(DurableSpec {
                            topic: pattern.clone(),
                            dead_letters: service.to_string(),
                            requests: true,
                        }),
                        max_body: node.config().limits.body_in,
                        sink: Arc::clone(&sink) as Arc<dyn TopicSink>,
                    };
                    let transport = Arc::clone(node.transport());
                    async move { transport.subscribe(spec).await }.boxed()
                })
                .await?;
            server.serving.add(Source::Subscription(subscription));
        }
        Ok(())
    }
}

/// Takes the requests to one method.
struct Requests {
    server: Arc<Server>,
    method: usize,
    /// As it is at the broker.
    address: Address,
    settings: Settings,
}

impl TopicSink for Requests {
    fn message(&self, message: TopicMessage) {
        let TopicMessage {
            message,
            permit,
            tracked: Some(tracked),
            ..
        } = message
        else {
            return tracing::error!(address = %self.address, "ignored a request that the broker does not keep");
        };
        let request = Request {
            server: Arc::clone(&self.server),
            method: self.method,
            address: self.address.clone(),
            settings: self.settings,
            attempt: tracked.attempt,
            message,
            responder: Box::new(Kept {
                settle: tracked.settle,
                wants_answer: tracked.wants_answer,
                _permit: permit,
            }),
        };
        self.server.serving.tasks.spawn(request.handle().boxed());
    }

    fn gap(&self) {
        tracing::warn!(address = %self.address, "the broker lost what it kept for a durable method; requests may be gone");
    }

    fn dropped(&self, reason: &str) {
        tracing::warn!(address = %self.address, reason, "a request to a durable method is given up");
    }
}

/// A request that the broker keeps until this is used. Dropping it gives the request back.
struct Kept {
    settle: Box<dyn Settle>,
    wants_answer: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Responder for Kept {
    fn wants_reply(&self) -> bool {
        self.wants_answer
    }

    fn reply(mut self: Box<Self>, reply: Envelope) {
        self.settle.answer(reply);
        self.settle.handled();
    }

    fn finish(self: Box<Self>) {
        self.settle.handled();
    }

    fn give_up(self: Box<Self>, reason: String) {
        self.settle.dead(bounded(reason));
    }

    fn give_back(self: Box<Self>, _: Envelope) {}
}

/// A request on its way to its handler.
struct Request {
    server: Arc<Server>,
    method: usize,
    address: Address,
    settings: Settings,
    attempt: u32,
    message: Envelope,
    responder: Box<Kept>,
}

impl Request {
    async fn handle(mut self) {
        let meta = &mut self.message.meta;
        let Some(id) = meta.id.clone() else {
            let status = Status::new(StatusCode::InvalidArgument, "the request has no id");
            return self.refuse(&status);
        };
        let retries = self.settings.retries;
        if self.attempt > retries.attempts {
            let node = self.server.node.clone();
            give_up(&node, &self.address, &self.message.meta.headers, &id).await;
            let reason = too_often(self.attempt - 1);
            tracing::error!(address = %self.address, id, reason, "a request to a durable method is given up");
            let text = format!("the request is given up and became a dead letter: {reason}");
            let status = Status::new(StatusCode::Internal, text).with_execution(Execution::MayHaveRun);
            self.responder.settle.answer(refusal(&status));
            return self.responder.give_up(reason);
        }
        let codec = match Codec::of(meta.content_type.as_deref()) {
            Ok(codec) => codec,
            Err(reason) => return self.refuse(&Status::new(StatusCode::InvalidArgument, reason)),
        };
        if let Err(status) = self.server.node.config().receive(&mut self.message, codec) {
            return self.refuse(&status);
        }
        if self.attempt > 1 {
            // Whoever had it last died of it, for all that is known.
            tokio::select! {
                () = tokio::time::sleep(retries.delay(self.attempt - 1)) => {}
                () = self.server.serving.canceled.cancelled() => return,
            }
        }
        let received = Received::now();
        let oneway = self.server.method(self.method).descriptor.oneway;
        let waits = still_waits(&self.message.meta).unwrap_or_default();
        let once = Once {
            attempt: self.attempt,
            id: id.clone(),
            address: self.address,
            window: self.settings.window,
            until: (!oneway).then(|| received.at + waits),
        };
        let handling = Handling {
            method: self.method,
            received,
            deadline: received.at + FAR,
            redelivered: self.attempt > 1,
            has_timeout: false,
            cancel: Arc::new(Cancel::new(Some(id))),
            codec,
            // The answer is kept, too.
            compression: None,
            responder: self.responder,
            once: Some(Arc::new(once)),
        };
        handling.run(self.server, self.message).await;
    }

    /// It can't be handled: its caller is told, or nobody is and it becomes a dead letter.
    fn refuse(self, status: &Status) {
        tracing::warn!(address = %self.address, %status, "refused a request to a durable method");
        if self.responder.wants_answer {
            refuse(self.responder, status);
        } else {
            self.responder.give_up(status.to_string());
        }
    }
}
