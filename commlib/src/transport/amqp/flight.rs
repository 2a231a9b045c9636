//! One session of a lane: its channel, and what was handed to the library and is not settled yet.
//!
//! Confirms come in any order, and the library attaches a returned message to whichever confirm it completes next. So a
//! return is matched by the message id in it, wherever it surfaces. For a request nothing more is needed, as its
//! confirm promises nothing. A message that nobody answers is *accepted* only when its return can't come any more: when
//! a confirm without a return was seen after its own, because then none was waiting to be attached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::acks::{Acks, Done};
use super::fence::Fence;
use super::properties::{EXCHANGE_OF_REPLIES, name};
use super::publisher::Lane;
use super::queue::{Job, Outcome, State};
use super::row::{Handed, Row};
use super::supervisor::Link;
use super::{errors, inbox};
use crate::error::Execution;
use crate::transport::{Accepted, TransportError, TransportErrorKind};

/// Publishes that the library has and that are not settled.
const MAX_IN_FLIGHT: usize = 8 * 1024;
/// Batches without confirms that the library has and has not written.
const MAX_BATCHES: usize = 1;
/// Bodies that the library has, in bytes.
const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// After a connection is gone the library settles everything at once; this is only in case that it does not.
const SETTLE: Duration = Duration::from_millis(300);
/// How long the broker may take to deal with what was written before a lane is closed; less if its node has less.
const CLOSE: Duration = Duration::from_secs(5);

type Promise = oneshot::Sender<Result<Accepted, TransportError>>;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The lane was closed.
    Closed,
    /// The channel or the connection is gone.
    Lost,
}

/// How far a publish came.
#[expect(clippy::large_enum_variant, reason = "the large variant is the common one")]
pub(super) enum Fate {
    /// The library did not write it.
    Unwritten(lapin::Error),
    /// The broker answered, or there is nothing to wait for.
    Answered(Confirmation),
    /// It was written and the channel ended before the answer.
    Unanswered(lapin::Error),
}

enum Entry {
    Request(String),
    Publish(Promise, OwnedSemaphorePermit),
    /// The rest is kept by id, because a return finds it so.
    Mandatory(String),
    Reply(Option<OwnedSemaphorePermit>, Option<Done>),
    /// So many, whose publishers went on.
    Unconfirmed(usize, OwnedSemaphorePermit),
    /// Told of its fate already.
    Told,
}

impl Entry {
    const fn messages(&self) -> usize {
        match self {
            Self::Unconfirmed(messages, _) => *messages,
            _ => 1,
        }
    }
}

/// See the [module](self).
pub(super) struct Flight<'a> {
    pub(super) lane: &'a Lane,
    pub(super) link: Arc<Link>,
    pub(super) channel: Channel,
    pub(super) inbox: Option<inbox::Session>,
}

impl Flight<'_> {
    /// Sends until the channel is gone or the lane is closed, then tells everybody.
    pub(super) async fn run(self) -> End {
        let Flight {
            lane,
            link,
            channel,
            inbox,
        } = self;
        let _session = link.session();
        let mut blocked = link.blocked();
        let mut ledger = Ledger::new(lane);
        // The library writes in order. So without confirms only the last one of those that are handed over together
        // is waited for, and the next ones are collected meanwhile: what is written together costs the least.
        let confirmed = lane.is_confirmed();
        let mut publishes = FuturesUnordered::new();
        let mut fence = Fence::new(&channel);
        let fenced = !confirmed && lane.sink().is_some();
        let mut exchange_declared = false;
        if !confirmed {
            let reply_to = inbox.as_ref().map(|inbox| inbox.reply_to.clone());
            lane.set_row(Some(Row::new(&channel, reply_to)));
        }
        let mut is_blocked = ledger.follow(blocked.borrow_and_update().as_ref(), |_| ());
        let end = loop {
            if !confirmed
                && publishes.len() < MAX_BATCHES
                && let Some(handed) = lane.take_row()
            {
                if fenced {
                    fence.sent();
                }
                publishes.push(Either::Right(ledger.watch(handed)));
            }
            let room = if confirmed || publishes.len() < MAX_BATCHES {
                ledger.room()
            } else {
                0
            };
            if !is_blocked && room > 0 {
                let mut batch = Vec::new();
                let mut jobs = lane.take(room);
                let taken = !jobs.is_empty();
                if !exchange_declared && jobs.iter().any(Job::needs_exchange) {
                    exchange_declared = declare_exchange(&link, lane).await;
                    if !exchange_declared {
                        let before = jobs.len();
                        jobs.retain(|job| !job.needs_exchange());
                        lane.settled(before - jobs.len());
                    }
                }
                if fenced && !jobs.is_empty() {
                    fence.sent();
                }
                let mut jobs = jobs.into_iter().peekable();
                while let Some(mut job) = jobs.next() {
                    let mandatory = job.is_mandatory();
                    let body = std::mem::take(&mut job.body);
                    let mut properties = std::mem::take(&mut job.properties);
                    if let Some(inbox) = &inbox {
                        properties = properties.with_reply_to(inbox.reply_to.clone());
                    }
                    let address = (job.exchange.clone(), job.key.clone(), mandatory);
                    batch.push(ledger.insert(job.outcome, body.len()));
                    let last = confirmed || jobs.peek().is_none();
                    if last {
                        let batch = std::mem::take(&mut batch);
                        let publish = publish(&channel, address, properties, body, batch);
                        publishes.push(Either::Left(publish));
                    } else if let Some((_, fate)) =
                        publish(&channel, address, properties, body, Vec::new()).now_or_never()
                        && let Some(key) = batch.pop()
                    {
                        ledger.settle(key, fate);
                    }
                }
                if taken {
                    lane.handed_over();
                }
            }
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                () = link.dead() => break End::Lost,
                () = inbox::ended(inbox.as_ref()) => break End::Lost,
                changed = blocked.changed() => match changed {
                    Ok(()) => {
                        is_blocked = ledger.follow(blocked.borrow_and_update().as_ref(), |ledger| {
                            let handed = lane.take_row().map(|handed| ledger.watch(handed));
                            publishes.extend(handed.map(Either::Right));
                        });
                    }
                    Err(_) => break End::Lost,
                },
                Some((batch, fate)) = publishes.next(), if !publishes.is_empty() => {
                    ledger.settle_batch(batch, fate);
                    while let Some(Some((batch, fate))) = publishes.next().now_or_never() {
                        ledger.settle_batch(batch, fate);
                    }
                    ledger.acknowledge();
                    ledger.accept(publishes.is_empty());
                    if !channel.status().connected() {
                        break End::Lost;
                    }
                }
                // Whatever the library settled before an acceptance has to be seen before it is told.
                () = tokio::task::yield_now(), if !ledger.due.is_empty() => ledger.accept(publishes.is_empty()),
                () = lane.queued(), if room > 0 && !is_blocked => if !channel.status().connected() {
                    break End::Lost;
                },
                returned = fence.returned(), if fenced => for message in returned {
                    ledger.returned(Some(message));
                },
                never = lane.expire(), if is_blocked && lane.is_replies() => match never {},
                () = lane.closing.cancelled() => break End::Closed,
            }
        };
        // What comes meanwhile waits for the next session, or is refused with the rest.
        if let Some(handed) = lane.set_row(None) {
            publishes.push(Either::Right(ledger.watch(handed)));
        }
        lane.enter(State::Down);
        let wait = async {
            while let Some((batch, fate)) = publishes.next().await {
                ledger.settle_batch(batch, fate);
            }
        };
        if end == End::Lost {
            let _ = tokio::time::timeout(SETTLE, wait).await;
        }
        if end == End::Closed && blocked.borrow().is_none() {
            // The broker may forget what comes right before the end of a connection. It answers this when it has dealt
            // with everything that was written before.
            let _ = tokio::time::timeout(CLOSE, channel.close(200, name("closed"))).await;
        }
        if let Some(inbox) = inbox {
            inbox.finish(SETTLE).await;
        }
        ledger.end(end, link.is_dead());
        end
    }
}

/// Publishes, and waits until that is written, or confirmed where the channel confirms. The first poll hands it to the
/// library, and it goes out even if the rest is not awaited.
pub(super) async fn publish(
    channel: &Channel,
    (exchange, routing_key, mandatory): (lapin::types::ShortString, lapin::types::ShortString, bool),
    properties: BasicProperties,
    body: bytes::Bytes,
    batch: Vec<usize>,
) -> (Vec<usize>, Fate) {
    let options = BasicPublishOptions {
        mandatory,
        immediate: false,
    };
    let written = channel
        .basic_publish(exchange, routing_key, options, &body, properties)
        .await;
    drop(body);
    let fate = match written {
        Err(error) => Fate::Unwritten(error),
        Ok(confirm) => confirm.await.map_or_else(Fate::Unanswered, Fate::Answered),
    };
    (batch, fate)
}

/// On a channel of its own, because a refusal closes it.
async fn declare_exchange(link: &Link, lane: &Lane) -> bool {
    let declare = async {
        let channel = link.channel().await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declare = channel.exchange_declare(
            name(EXCHANGE_OF_REPLIES),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        );
        errors::bounded("declaring the exchange `commlib.reply`", lane.limit, declare).await
    };
    match declare.await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "a reply is dropped");
            false
        }
    }
}

/// Who is to be told what.
struct Ledger<'a> {
    lane: &'a Lane,
    entries: Slab<(Entry, usize)>,
    bytes: usize,
    /// Whether there can be requests that wait for replies.
    asked: bool,
    /// Messages that must be routed and nobody answers, by id.
    mandatory: HashMap<String, (Promise, OwnedSemaphorePermit)>,
    /// Confirmed, with a return perhaps still to come.
    confirmed: Vec<String>,
    /// Confirmed, with a return perhaps settled by the library and not yet seen here.
    accepted: Vec<String>,
    /// To be told when everything that is settled was looked at once more.
    due: Vec<String>,
    /// Channels with requests to acknowledge.
    written: Vec<Arc<Acks>>,
    /// Why the channel ended.
    cause: Option<lapin::Error>,
}

impl<'a> Ledger<'a> {
    fn new(lane: &'a Lane) -> Self {
        Self {
            lane,
            entries: Slab::new(),
            bytes: 0,
            asked: false,
            mandatory: HashMap::new(),
            confirmed: Vec::new(),
            accepted: Vec::new(),
            due: Vec::new(),
            written: Vec::new(),
            cause: None,
        }
    }

    fn room(&self) -> usize {
        if self.bytes >= MAX_IN_FLIGHT_BYTES {
            return 0;
        }
        MAX_IN_FLIGHT.saturating_sub(self.entries.len())
    }

    /// Takes over what senders handed over themselves, whose fates are known with that of the last.
    fn watch(&mut self, handed: Handed) -> impl Future<Output = (Vec<usize>, Fate)> + use<> {
        let outcomes = handed.outcomes.into_iter();
        let batch = outcomes
            .map(|(outcome, size)| self.insert(outcome, size))
            .collect();
        let last = handed.last;
        async move {
            let fate = last.await;
            (batch, fate)
        }
    }

    fn insert(&mut self, outcome: Outcome, size: usize) -> usize {
        self.bytes += size;
        let entry = match outcome {
            Outcome::Request { id } => {
                self.asked = true;
                Entry::Request(id)
            }
            Outcome::Publish { id: None, done, turn } => Entry::Publish(done, turn),
            Outcome::Publish {
                id: Some(id),
                done,
                turn,
            } => {
                self.mandatory.insert(id.clone(), (done, turn));
                Entry::Mandatory(id)
            }
            Outcome::Reply { permit, delivery, .. } => Entry::Reply(permit, delivery),
            Outcome::Unconfirmed { messages, turn } => Entry::Unconfirmed(messages, turn),
        };
        self.entries.insert((entry, size))
    }

    /// The fate is that of the last one, and the others were handed over before it.
    fn settle_batch(&mut self, mut batch: Vec<usize>, fate: Fate) {
        let last = batch.pop();
        for key in batch {
            let fate = match &fate {
                Fate::Answered(_) => Fate::Answered(Confirmation::NotRequested),
                Fate::Unwritten(error) | Fate::Unanswered(error) => Fate::Unanswered(error.clone()),
            };
            self.settle(key, fate);
        }
        if let Some(key) = last {
            self.settle(key, fate);
        }
    }

    /// Acknowledges the requests whose replies were settled.
    fn acknowledge(&mut self) {
        for acks in self.written.drain(..) {
            acks.flush();
        }
    }

    fn settle(&mut self, key: usize, fate: Fate) {
        let (entry, size) = self.entries.remove(key);
        self.bytes -= size;
        self.lane.settled(entry.messages());
        match fate {
            Fate::Unwritten(error) => {
                let status = errors::operation("publishing", &error, Execution::DidNotRun);
                self.cause = Some(error);
                self.tell(entry, Err(status));
            }
            Fate::Unanswered(error) => {
                // A channel is closed for one message; when there was only one, it is known for which.
                if self.cause.is_none() && self.entries.is_empty() && errors::closes_channel(&error) {
                    let status = errors::operation("publishing", &error, Execution::DidNotRun);
                    self.tell(entry, Err(status));
                } else if !matches!(entry, Entry::Request(_)) {
                    // Requests are told by `lost`, with every other one.
                    self.tell(entry, Err(errors::channel_lost(&error)));
                }
                self.cause = Some(error);
            }
            Fate::Answered(Confirmation::Nack(returned)) => {
                self.tell(
                    entry,
                    Err(TransportError::did_not_run(
                        TransportErrorKind::QueueFull,
                        "the broker refused the message: a queue is full",
                    )),
                );
                self.returned(returned);
            }
            Fate::Answered(confirmation) => {
                let returned = confirmation.take_message();
                let none_waiting = returned.is_none();
                self.returned(returned);
                match entry {
                    Entry::Mandatory(id) => self.confirmed.push(id),
                    Entry::Publish(..) => {
                        let accepted = Accepted {
                            unconfirmed: !self.lane.is_confirmed(),
                            ..Accepted::default()
                        };
                        self.tell(entry, Ok(accepted));
                    }
                    Entry::Reply(_permit, delivery) => {
                        if let Some(acks) = delivery.and_then(Done::later)
                            && !self.written.iter().any(|other| Arc::ptr_eq(other, &acks))
                        {
                            self.written.push(acks);
                        }
                    }
                    Entry::Request(_) | Entry::Unconfirmed(..) | Entry::Told => {}
                }
                if none_waiting {
                    self.accepted.append(&mut self.confirmed);
                }
            }
        }
    }

    /// Tells those whose return can't come any more.
    fn accept(&mut self, idle: bool) {
        if idle {
            self.accepted.append(&mut self.confirmed);
        }
        for id in std::mem::take(&mut self.due) {
            if let Some((done, _turn)) = self.mandatory.remove(&id) {
                let _ = done.send(Ok(Accepted::default()));
            }
        }
        self.due = std::mem::take(&mut self.accepted);
    }

    fn returned(&mut self, message: Option<BasicReturnMessage>) {
        let Some(message) = message else { return };
        // Requests have one id for both.
        let properties = &message.delivery.properties;
        let id = properties.message_id().as_ref();
        let Some(id) = id.or(properties.correlation_id().as_ref()) else {
            return;
        };
        let error = TransportError::did_not_run(
            TransportErrorKind::NoResponders,
            format!("nobody serves `{}`", message.delivery.routing_key),
        );
        if let Some((done, _turn)) = self.mandatory.remove(id.as_str()) {
            let _ = done.send(Err(error));
        } else if let Some(sink) = self.lane.sink() {
            sink.failed(id.as_str(), error);
        }
    }

    /// Follows an alarm of the broker. What it took may still be carried out when the alarm is over; what was not
    /// handed over never will. `take` takes over what senders have handed over, when they can hand over nothing more.
    /// Returns whether the broker is blocking.
    fn follow(&mut self, reason: Option<&Arc<str>>, take: impl FnOnce(&mut Self)) -> bool {
        let Some(reason) = reason else {
            self.lane.enter(State::Up);
            return false;
        };
        let state = State::Blocked(Arc::clone(reason));
        let error = errors::blocked(reason, Execution::DidNotRun);
        self.lane.refuse(state, &error, || ());
        take(self);
        let error = errors::blocked(reason, Execution::MayHaveRun);
        // Of replies only the permits are given up: the messages are as good as written. Of those whose publishers went
        // on nobody is told.
        let entries: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, (entry, _))| !matches!(entry, Entry::Unconfirmed(..)))
            .map(|(_, (entry, _))| std::mem::replace(entry, Entry::Told))
            .collect();
        for entry in entries {
            if !matches!(entry, Entry::Reply(..)) {
                self.tell(entry, Err(error.clone()));
            }
        }
        true
    }

    /// Tells everybody that the session is over.
    fn end(mut self, end: End, disconnected: bool) {
        let lost = match (&self.cause, end) {
            (_, End::Closed) => TransportError::closed_in_flight(),
            (Some(cause), End::Lost) => errors::channel_lost(cause),
            (None, End::Lost) => errors::disconnected(Execution::MayHaveRun),
        };
        let in_flight = self.entries.iter().map(|(_, (entry, _))| entry.messages());
        self.lane.settled(in_flight.sum());
        for (_, (entry, _)) in std::mem::take(&mut self.entries) {
            if !matches!(entry, Entry::Request(_)) {
                self.tell(entry, Err(lost.clone()));
            }
        }
        for (_, (done, _turn)) in std::mem::take(&mut self.mandatory) {
            let _ = done.send(Err(lost.clone()));
        }
        let sink = self.lane.sink().filter(|_| self.asked);
        let also = || {
            if let Some(sink) = sink {
                sink.lost(lost);
            }
        };
        let never_sent = errors::disconnected(Execution::DidNotRun);
        match end {
            End::Closed => self.lane.refuse(State::Down, &TransportError::closed(), also),
            End::Lost if disconnected => self.lane.refuse(State::Down, &never_sent, also),
            End::Lost => self.lane.lose(&never_sent, also),
        }
    }

    fn tell(&mut self, entry: Entry, result: Result<Accepted, TransportError>) {
        match entry {
            Entry::Request(id) => {
                if let (Some(sink), Err(error)) = (self.lane.sink(), result) {
                    sink.failed(&id, error);
                }
            }
            Entry::Publish(done, _turn) => {
                let _ = done.send(result);
            }
            Entry::Mandatory(id) => {
                if let Some((done, _turn)) = self.mandatory.remove(&id) {
                    let _ = done.send(result);
                }
            }
            Entry::Reply(..) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "a reply was lost");
                }
            }
            Entry::Unconfirmed(messages, _turn) => {
                if let Err(error) = result {
                    tracing::warn!(messages, %error, "unconfirmed messages may be lost");
                }
            }
            Entry::Told => {}
        }
    }
}
