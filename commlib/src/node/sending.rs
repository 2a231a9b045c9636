//! What leaves a node: requests and their replies, one-way requests, topic messages, cancellations.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::flight::{InFlight, Stopped, Watched};
use super::{Node, Unsent};
use crate::address::Address;
use crate::codec::{self, Codec};
use crate::envelope::{APPLICATION, Dialect, Envelope, Meta, WireError};
use crate::error::{AppFailure, Execution, Failure, LocalError, Status, StatusCode};
use crate::middleware::{End, Invocation, Kind, Next, Outcome, Reply, check_headers};
use crate::runtime::pending::Answer;
use crate::runtime::{id, now_micros};
use crate::transport::{Accepted, PublishOptions, Published, Request, TransportError};

impl Node {
    /// What is sent of an invocation, compressed if that is wanted. `left`: the time to its deadline.
    pub(super) fn envelope(
        &self,
        id: String,
        invocation: Invocation,
        left: Duration,
    ) -> Result<Envelope, Failure> {
        let limits = &self.inner.config.limits;
        check_headers(&invocation.headers, limits)?;
        let (size, limit) = (invocation.body.len(), limits.body_out);
        if size > limit {
            return Err(LocalError::TooLarge {
                what: "the body",
                size,
                limit,
            }
            .into());
        }
        let packed = self
            .inner
            .config
            .compression
            .and_then(|compression| Some((compression, compression.deflate(&invocation.body)?)));
        let (encoding, data) = match packed {
            Some((compression, packed)) => (Some(compression.content_encoding().to_owned()), packed),
            None => (None, invocation.body),
        };
        Ok(Envelope {
            data,
            meta: Meta {
                id: Some(id),
                timestamp: Some(now_micros()),
                timeout_ms: (invocation.kind != Kind::Publish).then(|| whole_ms(left)),
                content_type: invocation.codec.said(),
                content_encoding: encoding,
                headers: invocation.headers,
                ..Meta::default()
            },
        })
    }

    async fn call(&self, invocation: Invocation, durable: bool) -> Outcome {
        let (address, deadline) = (&invocation.address, invocation.deadline);
        self.check_open()?;
        let mut refused = Unsent::default();
        loop {
            self.open_inbox(deadline).await?;
            let tried = match InFlight::start(self, invocation.clone(), Instant::now(), durable) {
                Ok(flight) => Watched { node: self, flight }.await,
                Err(stopped) => Err(stopped),
            };
            let unsent = match tried {
                Ok(reply) => return Ok(reply),
                Err(Stopped::Failed(failure)) => return Err(failure),
                Err(Stopped::Unsent(error)) => error,
            };
            // What certainly did not reach the broker waits for the next connection.
            tracing::debug!(%address, error = %unsent, "a request waits for a connection");
            self.connected(refused.again(unsent), deadline).await?;
        }
    }

    /// Whether a call can be sent at once, without waiting for an inbox or going through middleware.
    pub(crate) fn is_direct(&self) -> bool {
        self.inner.inbox.initialized() && self.inner.config.client_middleware.is_empty()
    }

    /// Whether its connection can be away, so that what did not leave is sent again.
    pub(crate) fn reconnects(&self) -> bool {
        self.inner.transport.capabilities().reconnects
    }

    pub(crate) fn take_reply(&self, mut reply: Answer) -> Outcome {
        // Whatever is wrong with it, it is there, so the method ran.
        self.inner
            .config
            .unpack(&mut reply.data, reply.content_encoding.take())
            .map_err(|status| status.with_execution(Execution::Failed))?;
        let depth = self.inner.config.limits.depth;
        let codec = Codec::of(reply.content_type.as_deref()).and_then(|codec| {
            let body = match &reply.error {
                Some(error) => &error.details,
                None => &reply.data,
            };
            codec::check_depth(codec, body, depth).map(|()| codec)
        });
        match reply.error {
            Some(error) if error.code != APPLICATION => Err(error.into_status(codec.ok()).into()),
            Some(error) => Err(match codec {
                Ok(codec) => Failure::App(AppFailure::new(error.message, codec, error.details)),
                Err(reason) => LocalError::Decode(format!(
                    "the method failed with an error that can't be read ({reason}): {}",
                    error.message
                ))
                .into(),
            }),
            None => match codec {
                Ok(codec) => Ok(Reply::encoded(codec, reply.data)),
                Err(reason) => Err(LocalError::Decode(reason).into()),
            },
        }
    }

    async fn oneway(&self, invocation: Invocation, durable: bool) -> Outcome {
        self.check_open()?;
        let (address, deadline) = (invocation.address.clone(), invocation.deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        let message = self.envelope(id::random(), invocation, left)?;
        let accepted = self
            .when_connected(deadline, || {
                let time_to_live = deadline.saturating_duration_since(Instant::now());
                let request = Request {
                    address: address.clone(),
                    message: message.clone(),
                    time_to_live,
                    durable,
                };
                self.inner.transport.send(request)
            })
            .await?;
        Ok(Reply::accepted(accepted))
    }

    async fn publish(&self, invocation: Invocation, options: &PublishOptions) -> Outcome {
        let deadline = invocation.deadline;
        match self.publish_now(invocation, options)? {
            Begun::Accepted(accepted) => Ok(Reply::accepted(accepted)),
            Begun::Waits(mut waiting) => self.publish_waiting(&mut waiting, options, deadline).await,
        }
    }

    /// Publishes at once, or says what is to be published in a while.
    pub(crate) fn publish_now(
        &self,
        invocation: Invocation,
        options: &PublishOptions,
    ) -> Result<Begun, Failure> {
        self.check_open()?;
        let address = invocation.address.clone();
        // The message does not say how much time is left.
        let message = self.envelope(id::random(), invocation, Duration::ZERO)?;
        match self.inner.transport.publish_now(&address, message, options) {
            Published::Done(Ok(accepted)) => Ok(Begun::Accepted(accepted)),
            Published::Done(Err(error)) => Err(Status::from(error).into()),
            Published::Sent(outcome, message) => Ok(Begun::Waits(Waiting {
                address,
                message,
                outcome: Some(outcome),
            })),
            Published::Waits(message) => Ok(Begun::Waits(Waiting {
                address,
                message,
                outcome: None,
            })),
        }
    }

    /// Publishes what waits, for a reader to catch up, for the broker's word or for a connection.
    pub(crate) async fn publish_waiting(
        &self,
        waiting: &mut Waiting,
        options: &PublishOptions,
        deadline: Instant,
    ) -> Outcome {
        let Waiting {
            address,
            message,
            outcome,
        } = waiting;
        let (address, message) = (&*address, &*message);
        let accepted = self
            .when_connected(deadline, || {
                let outcome = outcome.take();
                async move {
                    if let Some(outcome) = outcome {
                        return outcome.await.unwrap_or_else(|_| Err(TransportError::closed()));
                    }
                    let (address, message, options) = (address.clone(), message.clone(), options.clone());
                    self.inner.transport.publish(address, message, options).await
                }
            })
            .await?;
        Ok(Reply::accepted(accepted))
    }

    /// Tells whoever has the request that nobody waits for it any more.
    pub(super) fn cancel(&self, address: &Address, id: &str) {
        if self.inner.config.dialect != Dialect::Native || self.is_closed() {
            return;
        }
        let Some(topic) = cancel_address(address) else {
            return;
        };
        let Ok(data) = codec::encode(Codec::Json, &Cancellation { id: id.to_owned() }) else {
            return;
        };
        let message = Envelope {
            data,
            meta: Meta {
                id: Some(id::random()),
                timestamp: Some(now_micros()),
                ..Meta::default()
            },
        };
        let transport = Arc::clone(&self.inner.transport);
        let limit = self.inner.config.operation_timeout;
        let sending = async move {
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
        };
        self.inner.handle.spawn(sending.boxed());
    }
}

/// What came of publishing at once.
#[expect(
    clippy::large_enum_variant,
    reason = "what waits goes into the box of the future that waits for it, and the other is not kept in this form"
)]
pub(crate) enum Begun {
    Accepted(Accepted),
    /// There is something to wait for.
    Waits(Waiting),
}

/// A message that is not published yet.
pub(crate) struct Waiting {
    address: Address,
    message: Envelope,
    /// Of one that was sent, how that ended. It is sent again if it certainly did not leave.
    outcome: Option<oneshot::Receiver<Result<Accepted, TransportError>>>,
}

/// Where cancellations of a method's service are published: the method's address without its last level.
fn cancel_address(method: &Address) -> Option<Address> {
    let (service, _) = method.as_str().rsplit_once('.')?;
    cancel_topic(service)
}

/// What is published there.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Cancellation {
    /// The id of the request.
    pub(crate) id: String,
}

/// Where the cancellations of a service are published.
pub(crate) fn cancel_topic(service: &str) -> Option<Address> {
    Address::new(format!("_commlib.cancel.{service}")).ok()
}

/// A time left in ms, at least 1 as long as there is any.
fn whole_ms(left: Duration) -> u64 {
    u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The end of the client's middleware: hands the invocation to the transport.
pub(crate) struct Sending<'a> {
    node: &'a Node,
    options: PublishOptions,
    /// Whether the broker keeps the request.
    durable: bool,
}

impl<'a> Sending<'a> {
    /// For calls, of a durable method or another.
    pub(crate) fn calling(node: &'a Node, durable: bool) -> Self {
        Self {
            node,
            options: PublishOptions::default(),
            durable,
        }
    }

    /// For messages of topics.
    pub(crate) fn publishing(node: &'a Node, options: PublishOptions) -> Self {
        Self {
            node,
            options,
            durable: false,
        }
    }

    /// Publishes through the middleware.
    pub(crate) async fn publish(&self, invocation: Invocation) -> Outcome {
        let chain = &self.node.config().client_middleware;
        if chain.is_empty() {
            return self.node.publish(invocation, &self.options).await;
        }
        Next::new(chain, self).run(invocation).await
    }
}

impl End for Sending<'_> {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Outcome> {
        match invocation.kind {
            Kind::Call => self.node.call(invocation, self.durable).boxed(),
            Kind::Oneway => self.node.oneway(invocation, self.durable).boxed(),
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
