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
use super::properties::EXCHANGE_OF_REPLIES;
use super::row::Row;
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
    Request { id: String },
    /// A future.
    Publish {
        /// Set where the broker returns what it cannot route.
        id: Option<String>,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
        turn: OwnedSemaphorePermit,
    },
    /// Nobody: their publishers went on. They count against the bound until they are written.
    Unconfirmed {
        messages: usize,
        turn: OwnedSemaphorePermit,
    },
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
    /// Handed to the library and not yet settled.
    pub(super) in_flight: usize,
    /// The task hands over what came earlier.
    pub(super) is_overtaken: bool,
    /// On a channel without confirms, what senders hand over themselves.
    pub(super) row: Option<Row>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: State::Down,
            jobs: VecDeque::new(),
            in_flight: 0,
            is_overtaken: false,
            row: None,
        }
    }

    /// Whether a message can be handed to the library at once.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Up)
            && self.jobs.is_empty()
            && !self.is_overtaken
            && self.row.as_ref().is_some_and(Row::has_room)
    }

    /// Hands a message to the library, or gives it back where that can't be done at once. Returns whether it is the
    /// first of a row, which the task has to be told of.
    pub(super) fn hand_over(&mut self, job: Job) -> Result<bool, Box<Job>> {
        let open = self.is_open() && !job.needs_exchange();
        match self.row.as_mut().filter(|_| open) {
            Some(row) => {
                self.in_flight += 1;
                Ok(row.hand_over(job))
            }
            None => Err(Box::new(job)),
        }
    }
}
