//! One request on its way through its handler: run, watched, answered.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::dispatch::{Received, Server};
use super::once::Once;
use super::{HandlerResult, MethodDescriptor, RequestContext};
use crate::codec::Codec;
use crate::compression::Compression;
use crate::envelope::{Envelope, Meta};
use crate::error::{Execution, Failure, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Next, Outcome, Reply, panicked};
use crate::node::wire_error;
use crate::runtime::cancel::Cancel;
use crate::runtime::now_micros;
use crate::runtime::scope::Scope;
use crate::trace::TraceContext;
use crate::transport::{Responder, durable};

/// An admitted request.
pub(super) struct Handling {
    /// Which of the server's methods.
    pub(super) method: usize,
    pub(super) received: Received,
    pub(super) deadline: Instant,
    pub(super) redelivered: bool,
    /// Whether the caller said how long it waits.
    pub(super) has_timeout: bool,
    pub(super) cancel: Arc<Cancel>,
    pub(super) codec: Codec,
    /// How the request was compressed.
    pub(super) compression: Option<Compression>,
    pub(super) responder: Box<dyn Responder>,
    /// Of a durable method.
    pub(super) once: Option<Arc<Once>>,
}

/// A handler that was started.
struct Work {
    future: BoxFuture<'static, HandlerResult>,
    scope: Scope,
    span: tracing::Span,
    method: &'static MethodDescriptor,
    /// It panicked, or was ended.
    broke_off: bool,
}

impl Work {
    /// Runs the handler as far as it goes. A panic is its outcome.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<HandlerResult> {
        let Self {
            future, scope, span, ..
        } = self;
        let _entered = span.enter();
        let polled = scope.sync(|| catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))));
        polled.unwrap_or_else(|panic| {
            self.broke_off = true;
            Poll::Ready(Err(panicked(self.method.address.as_str(), &*panic).into()))
        })
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a handler runs here right now, on this very stack. Another one inside it could be followed by another, and
/// the stack ends somewhere.
pub(super) fn is_inside() -> bool {
    INSIDE.get()
}

struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Handling {
    /// Runs the handler right here, in a task only if it waits for something.
    pub(super) fn run_here(self, server: &Arc<Server>, message: Envelope) {
        let _here = server.serving.here();
        let pace = &server.method(self.method).pace;
        let mut work = self.begin(server, message);
        let polled = {
            let _inside = Inside::enter();
            work.poll(&mut Context::from_waker(Waker::noop()))
        };
        match polled {
            Poll::Ready(result) => {
                let now = Instant::now();
                pace.done(now - self.received.at);
                self.answer(server, result, now);
            }
            Poll::Pending => {
                pace.waited();
                let waiting = self.wait(Arc::clone(server), work, false);
                server.serving.tasks.spawn(waiting);
            }
        }
    }

    /// Runs the handler in a task of its own.
    pub(super) async fn run(self, server: Arc<Server>, mut message: Envelope) {
        if server.serving.canceled.is_cancelled() {
            // The time for draining is over and this one has not begun: another server can take it.
            message.meta.id.clone_from(&self.cancel.id);
            return self.responder.give_back(message);
        }
        let pace = &server.method(self.method).pace;
        let begun = Instant::now();
        let mut work = self.begin(&server, message);
        match std::future::poll_fn(|cx| Poll::Ready(work.poll(cx))).await {
            Poll::Ready(result) => {
                let now = Instant::now();
                pace.done(now - begun);
                if !self.goes_back(&work) {
                    self.answer(&server, result, now);
                }
            }
            Poll::Pending => {
                pace.waited();
                self.wait(server, work, true).await;
            }
        }
    }

    /// Sees a handler through that waits for something. `polled`: by this task already.
    async fn wait(self, server: Arc<Server>, mut work: Work, polled: bool) {
        server.waits(&self.cancel);
        let mut canceled = pin!(server.serving.canceled.cancelled());
        let mut ended = pin!(server.serving.ended.cancelled());
        let (mut wakes, mut told) = (polled, false);
        let result = std::future::poll_fn(|cx| {
            if !told && canceled.as_mut().poll(cx).is_ready() {
                told = true;
                self.cancel.cancel();
            }
            // What was polled by this task already will wake it.
            if !std::mem::take(&mut wakes)
                && let Poll::Ready(result) = work.poll(cx)
            {
                return Poll::Ready(result);
            }
            ended.as_mut().poll(cx).map(|()| {
                work.broke_off = true;
                let text = "the server shut down before the request was finished";
                Err(Status::new(StatusCode::Unavailable, text).into())
            })
        })
        .await;
        let goes_back = self.goes_back(&work);
        drop(work);
        server.waited(&self.cancel);
        if !goes_back {
            self.answer(&server, result, Instant::now());
        }
    }

    /// Whether a request is to be handled again because its handler did not come to its end: with its responder it goes
    /// back to the broker.
    fn goes_back(&self, work: &Work) -> bool {
        work.broke_off && self.once.is_some()
    }

    /// Starts the handler, behind the middleware.
    fn begin(&self, server: &Arc<Server>, message: Envelope) -> Work {
        let method = server.method(self.method).descriptor;
        let Envelope {
            data,
            meta: Meta { headers, .. },
        } = message;
        let trace = TraceContext::from_headers(&headers);
        let address = &method.address;
        let span = tracing::info_span!("commlib.handle", %address, trace_id = tracing::field::Empty);
        if let Some(trace) = trace.as_ref().filter(|_| !span.is_disabled()) {
            span.record("trace_id", trace.trace_id());
        }
        let kind = if method.oneway { Kind::Oneway } else { Kind::Call };
        let invocation = Invocation::new(kind, address.clone(), headers, (self.codec, data), self.deadline);
        let future = if server.node.config().server_middleware.is_empty() {
            self.request().call(server, method, invocation)
        } else {
            let ending = Ending {
                server: Arc::clone(server),
                method,
                request: self.request(),
            };
            async move {
                let chain = &ending.server.node.config().server_middleware;
                Next::new(chain, &ending).run(invocation).await
            }
            .boxed()
        };
        let scope = Scope {
            deadline: Some(self.deadline),
            trace,
        };
        Work {
            future,
            scope,
            span,
            method,
            broke_off: false,
        }
    }

    fn request(&self) -> Request {
        Request {
            cancel: Arc::clone(&self.cancel),
            redelivered: self.redelivered,
            once: self.once.clone(),
        }
    }

    fn answer(self, server: &Server, result: HandlerResult, now: Instant) {
        let method = server.method(self.method).descriptor;
        let address = &method.address;
        let limit = server.node.config().limits.body_out;
        let result = match result {
            // Where the caller said how long it waits, what comes later is no success, even if it would be the first to
            // see it: the handler may have stopped because of the deadline.
            Ok(_) if self.has_timeout && self.deadline <= now => {
                let text = format!("the handler of `{address}` finished after the deadline");
                Err(Status::new(StatusCode::DeadlineExceeded, text).into())
            }
            Ok(reply) if reply.body.len() > limit => {
                let size = reply.body.len();
                tracing::error!(%address, size, limit, "a reply is over the limit and was not sent");
                let text = format!(
                    "the reply has {size} bytes, over the server's limit of {limit}; the server can raise it with `Limits::body_out`"
                );
                Err(Status::new(StatusCode::ResourceExhausted, text)
                    .with_execution(Execution::Failed)
                    .into())
            }
            result => result,
        };
        if method.oneway || !self.responder.wants_reply() {
            if let Err(failure) = result {
                let error = describe(&failure);
                tracing::warn!(%address, error, "a request without a reply failed");
                if method.oneway && self.once.is_some() {
                    return self.responder.give_up(error);
                }
            }
            return self.responder.finish();
        }
        let mut reply = Envelope {
            meta: Meta {
                timestamp: Some(self.received.micros_at(now)),
                ..Meta::default()
            },
            ..Envelope::default()
        };
        match result {
            Ok(Reply { body, codec, .. }) => {
                let packed = self
                    .compression
                    .and_then(|compression| Some((compression, compression.deflate(&body)?)));
                reply.data = match packed {
                    Some((compression, packed)) => {
                        reply.meta.content_encoding = Some(compression.content_encoding().to_owned());
                        packed
                    }
                    None => body,
                };
                reply.meta.content_type = codec.said();
            }
            Err(failure) => {
                if let Failure::App(error) = &failure {
                    reply.meta.content_type = error.codec.said();
                }
                reply.meta.error = Some(Box::new(wire_error(failure)));
            }
        }
        self.responder.reply(reply);
    }
}

/// What a handler is told about its request, beside what middleware can change.
#[derive(Clone)]
struct Request {
    cancel: Arc<Cancel>,
    redelivered: bool,
    once: Option<Arc<Once>>,
}

impl Request {
    fn call(
        self,
        server: &Server,
        method: &'static MethodDescriptor,
        invocation: Invocation,
    ) -> BoxFuture<'static, HandlerResult> {
        let Invocation {
            address,
            headers,
            deadline,
            body,
            codec,
            ..
        } = invocation;
        let attempt = self.once.as_ref().map_or(1, |once| once.attempt);
        let context = RequestContext {
            node: server.node.clone(),
            address,
            headers,
            deadline,
            cancel: self.cancel,
            redelivered: self.redelivered,
            attempt,
            codec,
        };
        let service = Arc::clone(&server.service);
        match self.once {
            Some(once) if durable::BUILT => once.run(service, method.name, context, body).boxed(),
            _ => service.call(method.name, context, body),
        }
    }
}

/// The end of the middleware: the handler.
struct Ending {
    server: Arc<Server>,
    method: &'static MethodDescriptor,
    request: Request,
}

impl End for Ending {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        let request = self.request.clone();
        request.call(&self.server, self.method, invocation)
    }
}

/// Answers a request that does not run.
pub(super) fn refuse(responder: Box<dyn Responder>, status: &Status) {
    if responder.wants_reply() {
        responder.reply(refusal(status));
    } else {
        tracing::debug!(%status, "a request that can't be answered was not run");
        responder.finish();
    }
}

/// The reply to a request that does not run.
pub(super) fn refusal(status: &Status) -> Envelope {
    Envelope {
        meta: Meta {
            timestamp: Some(now_micros()),
            error: Some(Box::new(status.into())),
            ..Meta::default()
        },
        ..Envelope::default()
    }
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::App(error) => error.message.clone(),
        Failure::Status(status) => status.to_string(),
        Failure::Local(error) => error.to_string(),
    }
}
