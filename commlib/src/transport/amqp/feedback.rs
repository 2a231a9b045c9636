//! Tells what became of the messages of a lane: of one by one while its channel is there, and of all when that ends.

use std::sync::Arc;

use super::acks::Done;
use super::errors;
use super::flight::End;
use super::ledger::{Ledger, Rest};
use super::publisher::Lane;
use super::queue::{Outcome, State};
use super::wire::{Channel, Message, Publisher};
use crate::error::Execution;
use crate::transport::{Accepted, TransportError, TransportErrorKind};

/// Of one session of a lane.
pub(super) struct Feedback {
    lane: Arc<Lane>,
    session: u64,
}

impl Feedback {
    pub(super) fn new(lane: Arc<Lane>, session: u64) -> Self {
        Self { lane, session }
    }

    /// Asks the ledger, if it is still that of this session. Returns also whether something waits to be sent.
    fn ask<T: Default>(&self, question: impl FnOnce(&mut Ledger) -> T) -> (T, bool) {
        let mut queue = self.lane.queue.lock();
        if queue.session != self.session {
            return (T::default(), false);
        }
        let waits = !queue.jobs.is_empty();
        let answer = queue.ledger.as_mut().map(question).unwrap_or_default();
        drop(queue);
        if waits {
            self.lane.look();
        }
        self.lane.has_moved();
        (answer, waits)
    }
}

impl Publisher for Feedback {
    fn written(&self, bytes: u64) -> bool {
        let settle = |ledger: &mut Ledger| (ledger.written(bytes), ledger.waits_for_write());
        let ((settled, more), waits) = self.ask(settle);
        let mut acks = Vec::new();
        for outcome in settled {
            if let Outcome::Reply { delivery, permit, .. } = outcome {
                drop(permit);
                if let Some(channel) = delivery.and_then(Done::later)
                    && !acks.iter().any(|other| Arc::ptr_eq(other, &channel))
                {
                    acks.push(channel);
                }
            }
        }
        // Those of one batch together.
        for channel in acks {
            channel.flush();
        }
        more || waits
    }

    fn confirmed(&self, number: u64, multiple: bool, accepted: bool) {
        let (settled, _) = self.ask(|ledger| ledger.confirmed(number, multiple));
        for outcome in settled {
            let result = if accepted {
                Ok(Accepted::default())
            } else {
                Err(TransportError::did_not_run(
                    TransportErrorKind::QueueFull,
                    "the broker refused the message: a queue is full",
                ))
            };
            self.lane.tell(outcome, result);
        }
    }

    fn returned(&self, message: Message) {
        // Requests have one id for both.
        let properties = &message.properties;
        let id = properties.message_id().as_ref();
        let Some(id) = id.or(properties.correlation_id().as_ref()) else {
            return;
        };
        let error = TransportError::did_not_run(
            TransportErrorKind::NoResponders,
            format!("nobody serves `{}`", message.routing_key),
        );
        let (outcome, _) = self.ask(|ledger| ledger.returned(id.as_str()));
        if let Some(outcome) = outcome {
            self.lane.tell(outcome, Err(error));
        } else if let Some(sink) = self.lane.sink() {
            sink.failed(id.as_str(), error);
        }
    }
}

impl Lane {
    fn tell(&self, outcome: Outcome, result: Result<Accepted, TransportError>) {
        match outcome {
            Outcome::Request { id, .. } => {
                if let (Some(sink), Err(error)) = (self.sink(), result) {
                    sink.failed(&id, error);
                }
            }
            Outcome::Publish { done, turn, .. } => {
                drop(turn);
                let _ = done.send(result);
            }
            Outcome::Reply { .. } => {
                if let Err(error) = result {
                    tracing::warn!(%error, "a reply was lost");
                }
            }
            Outcome::Unconfirmed(turn) => {
                drop(turn);
                if let Err(error) = result {
                    tracing::warn!(%error, "an unconfirmed message may be lost");
                }
            }
        }
    }

    /// Follows an alarm of the broker. What it was sent may still be carried out when the alarm is over; what waits never
    /// will. Returns whether the broker is blocking.
    pub(super) fn follow(&self, reason: Option<&Arc<str>>) -> bool {
        let Some(reason) = reason else {
            self.enter(State::Up);
            return false;
        };
        let state = State::Blocked(Arc::clone(reason));
        self.refuse(state, &errors::blocked(reason, Execution::DidNotRun), || ());
        let told = self.queue.lock().ledger.as_mut().map(Ledger::blocked);
        for outcome in told.into_iter().flatten() {
            // Of replies only the permits are given up: they are as good as written.
            if !matches!(outcome, Outcome::Reply { .. }) {
                let error = errors::blocked(reason, Execution::MayHaveRun);
                self.tell(outcome, Err(error));
            }
        }
        true
    }

    /// Tells everybody that the session is over.
    pub(super) fn end(&self, channel: &Channel, end: End, disconnected: bool) {
        let cause = channel.cause();
        let lost = match (cause, end) {
            (_, End::Closed) => TransportError::closed_in_flight(),
            (Some(cause), End::Lost) => errors::channel_lost(cause),
            (None, End::Lost) => errors::disconnected(Execution::MayHaveRun),
        };
        let never_sent = errors::disconnected(Execution::DidNotRun);
        // The rest of what was put into the buffer is not written any more.
        let written = if channel.wire().is_over() || disconnected {
            channel.wire().seal()
        } else {
            u64::MAX
        };
        let ledger = self.queue.lock().ledger.take();
        let Rest { asked, outcomes } = ledger.map(Ledger::into_rest).unwrap_or_default();
        // A channel is closed for one message, and what was sent behind that is not looked at. So whichever it was, the one
        // that was sent last did not run; it is never forgotten before others. When it is the only one of which nothing is
        // known, the broker's words are told for it.
        let culprit = cause
            .filter(|cause| outcomes.len() == 1 && errors::closes_channel(cause))
            .map(|cause| errors::operation("publishing", cause, Execution::DidNotRun));
        for (end, outcome) in outcomes {
            if let Some(error) = &culprit {
                self.tell(outcome, Err(error.clone()));
            } else if end > written {
                self.tell(outcome, Err(never_sent.clone()));
            } else if !matches!(outcome, Outcome::Request { .. }) {
                // Requests are told by `lost`, with every other one.
                self.tell(outcome, Err(lost.clone()));
            }
        }
        let sink = self.sink().filter(|_| asked);
        let also = || {
            if let Some(sink) = sink {
                sink.lost(lost);
            }
        };
        match end {
            End::Closed => self.refuse(State::Down, &TransportError::closed(), also),
            End::Lost if disconnected => self.refuse(State::Down, &never_sent, also),
            End::Lost => self.lose(&never_sent, also),
        }
    }
}
