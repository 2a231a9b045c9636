//! Members of the groups of [durable topics](super::durable), and servers of durable methods: each has a channel and takes
//! from its group's queue as many messages at once as it has permits.

use std::sync::Arc;

use lapin::types::FieldTable;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::acks::{Acks, Unsettled};
use super::durable::{self, ADDRESS, REQUESTS_LENGTH};
use super::durable_settle::{Delivered, Place, attempt, message_id};
use super::properties::{self, read_request, read_topic};
use super::rebuild::Rebuild;
use super::session::{self, End, Taker};
use super::supervisor::Link;
use super::wire::{Consume, Incoming, Message};
use super::{Alive, Core};
use crate::envelope::Envelope;
use crate::error::StatusCode;
use crate::limits::too_large;
use crate::transport::durable::refusal;
use crate::transport::{
    DurableSpec, Group, Settle, SubscribeSpec, Subscription, Taken, TopicMessage, Tracked, TransportError,
};

/// Takes from a group's queue until the handle is stopped or dropped; resolves when the queue is there and consumed.
pub(super) async fn join(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    spec: SubscribeSpec,
    group: Group,
    durable: &DurableSpec,
) -> Result<Box<dyn Subscription>, TransportError> {
    let place = Arc::new(Place::new(core, &group.name, &spec.pattern, durable)?);
    let rebuild = Rebuild::new(&place.name, core);
    let member = |stop| Member {
        core: Arc::clone(core),
        place,
        spec,
        group,
        stop,
    };
    Ok(session::begin(core, alive, "subscribing", rebuild, member).await?)
}

struct Member {
    core: Arc<Core>,
    place: Arc<Place>,
    spec: SubscribeSpec,
    group: Group,
    stop: CancellationToken,
}

impl Taker for Member {
    type Session = (Arc<Acks>, Incoming);

    async fn build(&self, link: &Link) -> Result<Self::Session, TransportError> {
        let limit = self.core.options.operation_timeout;
        let queue = &self.place.queue;
        let channel = link.channel().await?;
        session::limit_taken(&channel, self.group.concurrency, limit).await?;
        let arguments = FieldTable::default();
        let length = if self.place.requests {
            REQUESTS_LENGTH
        } else {
            i32::try_from(self.core.options.limits.backlog).unwrap_or(i32::MAX)
        };
        durable::declare(&channel, limit, queue, "classic", length, arguments).await?;
        if !self.place.requests {
            session::bind(&channel, queue, &self.spec.pattern, limit).await?;
        }
        let consume = Consume {
            queue,
            no_ack: false,
            // One that is too large becomes a dead letter, whole.
            max_body: usize::MAX,
            limit,
        };
        let incoming = channel.incoming(consume).await?;
        Ok((Acks::new(channel), incoming))
    }

    async fn take(&self, (acks, mut incoming): Self::Session, link: &Arc<Link>) -> End {
        let end = loop {
            let message = match session::next(&mut incoming, &self.stop).await {
                Ok(message) => message,
                Err(end) => break end,
            };
            let delivery = Unsettled::new(&acks, message.delivery_tag);
            let permit = Arc::clone(&self.group.permits).acquire_owned();
            let Some(Ok(permit)) = self.stop.run_until_cancelled(permit).await else {
                break End::Stopped;
            };
            // If the channel went meanwhile, the broker gives this one to somebody else.
            if !acks.is_gone() {
                self.deliver(message, delivery, permit);
            }
        };
        session::let_go(link, &acks, incoming, &end, self.core.options.operation_timeout).await;
        if matches!(end, End::Gone(None)) {
            // The queue was deleted, and what was in it is gone.
            self.spec.sink.gap();
        }
        end
    }
}

impl Member {
    /// Hands a message up, or makes it a dead letter if it can't be read.
    fn deliver(&self, message: Message, delivery: Unsettled, permit: OwnedSemaphorePermit) {
        let Message {
            routing_key,
            exchange,
            redelivered,
            properties,
            malformed,
            data: body,
            ..
        } = message;
        // What the exchange of topics did not route has rested, or was sent again.
        let returned = exchange.is_empty();
        let address = returned
            .then(|| properties::text_header(&properties, ADDRESS))
            .flatten()
            .unwrap_or(routing_key);
        let attempt = attempt(&properties, returned);
        let size = body.len();
        let mut question = None;
        let read = if let Some(reason) = malformed {
            Err(reason.to_owned())
        } else if !self.spec.pattern.matches(&address) {
            Err("its address is none of the group's".to_owned())
        } else if self.place.requests {
            let (taken, asked) = read_request(&properties, body.clone(), body.len(), self.spec.max_body);
            let refused = asked.refused;
            question = asked.route.is_some().then_some(asked);
            read_kept(taken, refused, self.spec.max_body)
        } else if size > self.spec.max_body {
            Err(too_large("it", size, self.spec.max_body))
        } else {
            read_topic(&properties, body.clone()).map_err(|malformed| malformed.reason)
        };
        let id = message_id(&properties).filter(|_| returned);
        let wants_answer = question.is_some();
        let mut settle = Box::new(Delivered {
            place: Arc::clone(&self.place),
            delivery,
            address: address.clone(),
            properties,
            body,
            attempt,
            question,
            answer: None,
        });
        match read {
            // It was with a member that did not settle it, which was an attempt.
            Ok(_) if redelivered => settle.count(),
            Ok(mut message) => {
                if id.is_some() {
                    message.meta.id = id;
                }
                self.spec.sink.message(TopicMessage {
                    address,
                    message,
                    permit: Some(permit),
                    tracked: Some(Tracked {
                        attempt,
                        wants_answer,
                        settle,
                    }),
                });
            }
            Err(reason) => {
                self.spec.sink.dropped(&reason);
                let code = if size > self.spec.max_body {
                    StatusCode::ResourceExhausted
                } else {
                    StatusCode::InvalidArgument
                };
                settle.answer(refusal(code, &reason));
                settle.dead(reason);
            }
        }
    }
}

/// A request as it was kept, or what is wrong with it.
fn read_kept(taken: Taken, refused: bool, limit: usize) -> Result<Envelope, String> {
    match taken {
        _ if refused => Err("it wants its answer at an address that is no reply address".to_owned()),
        Taken::Message(message) => Ok(message),
        Taken::Malformed(malformed) => Err(malformed.reason),
        Taken::TooLarge { size } => Err(too_large("it", size, limit)),
    }
}
