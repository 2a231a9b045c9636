//! What the library has of a lane and has not settled, and who is to be told of it.
//!
//! Confirms come in any order, and the library attaches a returned message to whichever confirm it completes next. So a
//! return is matched by the message id in it, wherever it surfaces. For a request nothing more is needed, as its
//! confirm promises nothing. A message that nobody answers is *accepted* only when its return can't come any more: when
//! a confirm without a return was seen after its own, because then none was waiting to be attached.

use std::collections::HashMap;
use std::sync::Arc;

use lapin::Confirmation;
use lapin::message::BasicReturnMessage;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::acks::{Acks, Done};
use super::errors;
use super::flight::{End, Fate};
use super::publisher::Lane;
use super::queue::{Outcome, State};
use super::row::Handed;
use crate::error::Execution;
use crate::transport::{Accepted, TransportError, TransportErrorKind};

/// Publishes that the library has and that are not settled.
const MAX_IN_FLIGHT: usize = 8 * 1024;
/// Bodies that the library has, in bytes.
const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;

type Promise = oneshot::Sender<Result<Accepted, TransportError>>;

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

/// Who is to be told what.
pub(super) struct Ledger<'a> {
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
    pub(super) fn new(lane: &'a Lane) -> Self {
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

    pub(super) fn room(&self) -> usize {
        if self.bytes >= MAX_IN_FLIGHT_BYTES {
            return 0;
        }
        MAX_IN_FLIGHT.saturating_sub(self.entries.len())
    }

    /// Takes over what senders handed over themselves, whose fates are known with that of the last.
    pub(super) fn watch(&mut self, handed: Handed) -> impl Future<Output = (Vec<usize>, Fate)> + use<> {
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

    pub(super) fn insert(&mut self, outcome: Outcome, size: usize) -> usize {
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
    pub(super) fn settle_batch(&mut self, mut batch: Vec<usize>, fate: Fate) {
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
    pub(super) fn acknowledge(&mut self) {
        for acks in self.written.drain(..) {
            acks.flush();
        }
    }

    pub(super) fn settle(&mut self, key: usize, fate: Fate) {
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

    /// Whether there are acceptances to tell. Whatever the library settled before one has to be seen first.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Tells those whose return can't come any more.
    pub(super) fn accept(&mut self, idle: bool) {
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

    pub(super) fn returned(&mut self, message: Option<BasicReturnMessage>) {
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
    pub(super) fn follow(&mut self, reason: Option<&Arc<str>>, take: impl FnOnce(&mut Self)) -> bool {
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
    pub(super) fn end(mut self, end: End, disconnected: bool) {
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
