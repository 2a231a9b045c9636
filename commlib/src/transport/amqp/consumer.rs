//! Takes from work queues: one channel for each `consume`, rebuilt from its specification whenever it is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{SelectAll, Stream, StreamExt};
use lapin::options::{BasicCancelOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acks::{Acks, Unsettled};
use super::arrival;
use super::errors::bounded;
use super::last::stopping_before;
use super::prefetch::SharedCount;
use super::properties::{Question, name, read_request, short};
use super::rebuild::Rebuild;
use super::responder::Answer;
use super::session::{self, End, Taker};
use super::supervisor::Link;
use super::surge::{self, Surge};
use super::wire::{Channel, Consume, Incoming, Message};
use super::{Alive, Core};
use crate::envelope::Malformed;
use crate::limits::QUEUE_LENGTH;
use crate::transport::{ConsumeSpec, Consumer, Delivery, Taken, TransportError, TransportErrorKind};

/// How long a queue lives without consumers, in ms; in normal operation it goes with its last consumer.
const QUEUE_EXPIRES: i32 = 60_000;

/// One event of one of the queues.
#[expect(clippy::large_enum_variant, reason = "the large variant is the common one")]
pub(super) enum Item {
    Message(Message),
    /// The consumer is gone; with the reason where there is one.
    Gone(Option<lapin::Error>),
}

type Queues = SelectAll<Pin<Box<dyn Stream<Item = (usize, Item)> + Send>>>;

/// Starts taking; resolves when all queues are there and consumed.
pub(super) async fn consume(
    core: &Arc<Core>,
    alive: Arc<Alive>,
    spec: ConsumeSpec,
) -> Result<Box<dyn Consumer>, TransportError> {
    core.replies.start();
    let rebuild = Rebuild::new(&spec.service, core);
    let task = |stop| Task {
        core: Arc::clone(core),
        spec,
        stop,
    };
    Ok(session::begin(core, alive, "starting to take requests", rebuild, task).await?)
}

pub(super) struct Session {
    pub(super) count: Option<SharedCount>,
    pub(super) acks: Arc<Acks>,
    pub(super) queues: Queues,
    pub(super) surge: Surge,
    /// Taken, and stopped before there was a permit for it.
    held: Option<(usize, Message, Unsettled)>,
    pub(super) tags: Vec<ShortString>,
}

pub(super) struct Task {
    pub(super) core: Arc<Core>,
    pub(super) spec: ConsumeSpec,
    pub(super) stop: CancellationToken,
}

impl Taker for Task {
    type Session = Session;

    async fn build(&self, link: &Link) -> Result<Session, TransportError> {
        let channel = link.channel().await?;
        let count = self.limit_taken(&channel).await?;
        let mut session = Session {
            count,
            acks: Acks::new(channel),
            queues: SelectAll::new(),
            surge: Surge::new(self.spec.max_wait),
            held: None,
            tags: Vec::new(),
        };
        for index in 0..self.spec.addresses.len() {
            self.add(&mut session, index).await?;
        }
        Ok(session)
    }

    async fn take(&self, mut session: Session, link: &Arc<Link>) -> End {
        let end = if self.spec.auto_ack {
            self.take_all(&mut session).await
        } else {
            self.take_permitted(&mut session).await
        };
        self.wind_down(session, link, matches!(end, End::Stopped)).await;
        end
    }
}

impl Task {
    /// A count for each queue, and at first one for all queues of the channel, so that no message is taken without a
    /// permit for it. Brokers from 4.3 on refuse the latter unless they are told not to; with these, messages over the
    /// permits wait here.
    async fn limit_taken(&self, channel: &Channel) -> Result<Option<SharedCount>, TransportError> {
        let refused = &self.core.shared_limit_refused;
        let shared = !self.spec.auto_ack && self.spec.addresses.len() > 1 && !refused.load(Ordering::Relaxed);
        let prefetch = self.prefetch();
        let limit = self.core.options.operation_timeout;
        let what = "limiting what is taken";
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        bounded(what, limit, qos).await?;
        if !shared {
            return Ok(None);
        }
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: true });
        match bounded(what, limit, qos).await {
            Ok(()) => Ok(Some(SharedCount::new(channel, prefetch))),
            Err(error) => {
                if error.kind == TransportErrorKind::Protocol {
                    refused.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    /// How many requests each queue sends that are not acknowledged.
    pub(super) fn prefetch(&self) -> u16 {
        u16::try_from(self.spec.concurrency.max(1)).unwrap_or(u16::MAX)
    }

    /// Declares and consumes one queue.
    async fn add(&self, session: &mut Session, index: usize) -> Result<(), TransportError> {
        let Some(address) = self.spec.addresses.get(index) else {
            return Ok(());
        };
        let queue = short("address", address.as_str())?;
        self.declare(session.acks.channel(), &queue).await?;
        let channel = session.acks.channel();
        let incoming = channel
            .incoming(self.consumed(&queue, self.spec.auto_ack))
            .await?;
        session.tags.push(incoming.tag());
        session.queues.push(items(index, incoming, true));
        Ok(())
    }

    /// How a work queue is consumed.
    pub(super) fn consumed<'a>(&self, queue: &'a ShortString, no_ack: bool) -> Consume<'a> {
        Consume {
            queue,
            no_ack,
            max_body: self.spec.max_body,
            limit: self.core.options.operation_timeout,
        }
    }

    /// Declares a work queue, which says what is in it.
    pub(super) async fn declare(
        &self,
        channel: &Channel,
        queue: &ShortString,
    ) -> Result<lapin::Queue, TransportError> {
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert(name("x-expires"), AMQPValue::LongInt(QUEUE_EXPIRES));
        arguments.insert(name("x-max-length"), AMQPValue::LongInt(QUEUE_LENGTH.into()));
        arguments.insert(name("x-overflow"), AMQPValue::LongString("reject-publish".into()));
        let what = format!("declaring the queue `{queue}`");
        let declare = channel.queue_declare(queue.clone(), options, arguments);
        bounded(&what, self.core.options.operation_timeout, declare).await
    }

    /// Hands up what comes until there is nothing more to come.
    async fn take_permitted(&self, session: &mut Session) -> End {
        loop {
            tokio::task::coop::consume_budget().await;
            // Before anything is taken: what is taken and not handed up would go with the queue of the last server.
            if self.stop.is_cancelled() {
                return End::Stopped;
            }
            let item = match session.queues.next().now_or_never() {
                Some(item) => item,
                None => {
                    let calm = session.surge.until();
                    tokio::select! {
                        item = session.queues.next() => item,
                        () = self.stop.cancelled() => return End::Stopped,
                        () = surge::over(calm) => {
                            self.end_surge(session).await;
                            continue;
                        }
                    }
                }
            };
            match item {
                Some((index, Item::Message(message))) => {
                    let unsettled = Unsettled::new(&session.acks, message.delivery_tag);
                    match self.refuses(session, index, &message).await {
                        Ok(false) => {}
                        Ok(true) => {
                            if !session.acks.is_gone() {
                                self.deliver(index, message, Some(unsettled), None);
                            }
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(service = %self.spec.service, %error, "cannot take more at once");
                            return End::Gone(None);
                        }
                    }
                    let permits = Arc::clone(&self.spec.permits);
                    let (permit, waited) = match Arc::clone(&permits).try_acquire_owned() {
                        Ok(permit) => (permit, Duration::ZERO),
                        Err(_) => {
                            let since = Instant::now();
                            let permit = tokio::select! {
                                permit = permits.acquire_owned() => permit,
                                () = self.stop.cancelled() => {
                                    session.held = Some((index, message, unsettled));
                                    return End::Stopped;
                                }
                            };
                            // A closed semaphore is a server that is going away.
                            let Ok(permit) = permit else { return End::Stopped };
                            (permit, since.elapsed())
                        }
                    };
                    if let Some(count) = &mut session.count {
                        count.taken(waited);
                    }
                    // The channel went meanwhile, so the broker gives this one to somebody else.
                    if session.acks.is_gone() {
                        continue;
                    }
                    self.deliver(index, message, Some(unsettled), Some(permit));
                }
                item => {
                    if let Some(end) = self.gone(session, item).await {
                        return end;
                    }
                }
            }
        }
    }

    /// A queue ended, or all of them. `None` when there is more to come.
    pub(super) async fn gone(&self, session: &mut Session, item: Option<(usize, Item)>) -> Option<End> {
        match item {
            Some((_, Item::Gone(Some(error)))) => Some(End::Gone(Some(error))),
            Some((index, Item::Gone(None))) => {
                // Somebody deleted this queue; its neighbours live on.
                tracing::warn!(service = %self.spec.service, queue = ?self.spec.addresses.get(index), "a queue is gone; making it anew");
                match self.add(session, index).await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(service = %self.spec.service, %error, "cannot make the queue anew");
                        Some(End::Gone(None))
                    }
                }
            }
            Some((_, Item::Message(_))) | None => Some(End::Gone(None)),
        }
    }

    pub(super) fn deliver(
        &self,
        index: usize,
        message: Message,
        delivery: Option<Unsettled>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let (mut taken, question) = read_request(
            &message.properties,
            message.data,
            message.size,
            self.spec.max_body,
        );
        if let Taken::Message(request) = &mut taken {
            arrival::check_age(&mut request.meta, &message.properties, message.came);
        }
        if let Some(reason) = message.malformed {
            taken = Taken::Malformed(Malformed::new(reason));
        }
        if question.refused {
            self.core.refused_a_reply_address(&self.spec.service);
            taken = Taken::Malformed(Malformed::forged());
        }
        self.spec.sink.deliver(Delivery {
            address: index,
            taken,
            redelivered: message.redelivered,
            waited_for: false,
            responder: Box::new(self.answer(delivery, question, permit)),
        });
    }

    pub(super) fn answer(
        &self,
        delivery: Option<Unsettled>,
        question: Question,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Answer {
        let replies = if question.goes_to_queue() {
            &self.core.queue_replies
        } else {
            &self.core.replies
        };
        Answer {
            delivery,
            question,
            permit,
            replies: Arc::clone(replies),
            patience: self.core.options.operation_timeout,
        }
    }

    /// Cancels the consumers and hands up what came before that, as far as there are permits for it. The rest is given
    /// back to the broker, or answered where nobody else would get it. The channel stays open for as long as there are
    /// answers to acknowledge.
    async fn wind_down(&self, mut session: Session, link: &Arc<Link>, stopped: bool) {
        let limit = self.core.options.operation_timeout;
        // The last server counts the consumers.
        self.end_surge(&mut session).await;
        let last = if stopped && !self.spec.auto_ack {
            self.answer_what_waits(&session.acks).await
        } else {
            Vec::new()
        };
        let is_last = |index: usize| last.get(index).copied().unwrap_or(false);
        let cancel = async {
            for tag in std::mem::take(&mut session.tags) {
                let cancel = session
                    .acks
                    .channel()
                    .basic_cancel(tag, BasicCancelOptions::default());
                if cancel.await.is_err() {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(limit, cancel).await.is_ok();
        if let Some((index, message, unsettled)) = session.held.take() {
            self.hand_up_or_refuse(index, message, Some(unsettled), is_last(index));
        }
        while in_time && let Some((index, item)) = session.queues.next().await {
            let Item::Message(message) = item else { continue };
            if session.acks.is_gone() {
                continue;
            }
            let unsettled =
                (!self.spec.auto_ack).then(|| Unsettled::new(&session.acks, message.delivery_tag));
            let refuse = self.spec.auto_ack || is_last(index);
            self.hand_up_or_refuse(index, message, unsettled, refuse);
        }
        link.close_channel(session.acks.channel().clone(), session.acks.settled());
    }

    /// Hands a request up if there is a permit for it. Else it is answered, or goes back to the broker.
    fn hand_up_or_refuse(&self, index: usize, message: Message, unsettled: Option<Unsettled>, refuse: bool) {
        match Arc::clone(&self.spec.permits).try_acquire_owned() {
            Ok(permit) => {
                self.deliver(index, message, unsettled, Some(permit));
            }
            Err(_) if refuse => {
                let status = stopping_before(message.redelivered);
                self.refuse(message, unsettled, &status);
            }
            Err(_) => drop(unsettled),
        }
    }
}

/// What comes from a queue, with an item for its end; where that has no reason, only if it is the queue's first consumer.
pub(super) fn items(
    index: usize,
    incoming: Incoming,
    first: bool,
) -> Pin<Box<dyn Stream<Item = (usize, Item)> + Send>> {
    let stream = futures_util::stream::unfold(Some(incoming), move |incoming| async move {
        let mut incoming = incoming?;
        match incoming.next().await {
            Ok(message) => Some(((index, Item::Message(message)), Some(incoming))),
            Err(reason) => {
                let told = first || reason.is_some();
                told.then_some(((index, Item::Gone(reason)), None))
            }
        }
    });
    Box::pin(stream)
}
