//! What a [lane](super::publisher) knows: its state, the messages that wait for its task, and the way past the task
//! for those that need not wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::acks::Done;
use super::ledger::Ledger;
use super::properties::EXCHANGE_OF_REPLIES;
use crate::transport::{Accepted, TransportError};

/// A message and what happens when its fate is known.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    pub(super) outcome: Outcome,
}

impl Job {
    /// Whether it goes to an exchange that has to be declared first.
    pub(super) fn needs_exchange(&self) -> bool {
        self.exchange.as_str() == EXCHANGE_OF_REPLIES
    }

    /// Whether the broker returns it when nobody would get it.
    pub(super) fn is_mandatory(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Request { .. } | Outcome::Publish { id: Some(_), .. }
        )
    }
}

/// Who is told of a message's fate.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The sink, by this id.
    Request {
        id: String,
        /// When it was sent.
        since: tokio::time::Instant,
    },
    /// A future.
    Publish {
        /// Set where the broker returns what it cannot route.
        id: Option<String>,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
        turn: OwnedSemaphorePermit,
    },
    /// Nobody: their publishers went on. They count against the bound until they are written.
    Unconfirmed(OwnedSemaphorePermit),
    /// Nobody; the server's permit is held, and the request not acknowledged, until it is written.
    Reply {
        permit: Option<OwnedSemaphorePermit>,
        delivery: Option<Done>,
        until: Instant,
    },
}

/// What a lane can do.
#[derive(Debug)]
pub(super) enum State {
    /// Without a channel. While there is a connection one is being made, and messages wait for it.
    Down,
    Up,
    Blocked(Arc<str>),
    Closed,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) state: State,
    pub(super) jobs: VecDeque<Job>,
    /// What was sent on the channel of now.
    pub(super) ledger: Option<Ledger>,
    /// Counts the channels.
    pub(super) session: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: State::Down,
            jobs: VecDeque::new(),
            ledger: None,
            session: 0,
        }
    }

    /// Whether a message can be sent at once.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Up)
            && self.jobs.is_empty()
            && self.ledger.as_ref().is_some_and(Ledger::has_room)
    }

    /// Sends a message, or gives it back where that can't be done at once.
    pub(super) fn send(&mut self, job: Job) -> Result<(), Box<Job>> {
        let open = self.is_open();
        match self.ledger.as_mut().filter(|_| open) {
            Some(ledger) if ledger.exchange_declared || !job.needs_exchange() => ledger.send(job),
            _ => Err(Box::new(job)),
        }
    }

    /// Sends what waits, as far as that can be done. Returns whether an exchange has to be declared for the next one.
    pub(super) fn send_waiting(&mut self) -> bool {
        let Some(ledger) = self.ledger.as_mut().filter(|_| matches!(self.state, State::Up)) else {
            return false;
        };
        while let Some(job) = self.jobs.front() {
            if job.needs_exchange() && !ledger.exchange_declared {
                return true;
            }
            if !ledger.has_room() {
                // It is tried again after the next write; there may have been the last one just now.
                ledger.channel().tell();
                if !ledger.has_room() {
                    return false;
                }
            }
            let Some(job) = self.jobs.pop_front() else { break };
            if let Err(job) = ledger.send(job) {
                // It waits for the next channel.
                self.jobs.push_front(*job);
                return false;
            }
        }
        false
    }
}
