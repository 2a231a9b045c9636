//! Ends the handling of one delivery: acknowledges on the channel that it came on, and answers through the lane of
//! replies, which is on the other connection.
//!
//! The delivery is acknowledged when its reply was written: should the process die between the two, the caller has its
//! answer, and the next server is told that the request may have run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::acks::Unsettled;
use super::auto_ack::stopping;
use super::properties::{self, Question, name};
use super::publisher::Lane;
use super::queue::{Job, Outcome};
use crate::envelope::{Envelope, Meta};
use crate::error::Status;
use crate::transport::Responder;

/// See [`Responder`].
pub(super) struct Answer {
    /// `None` where the broker waits for nothing.
    pub(super) delivery: Option<Unsettled>,
    pub(super) question: Question,
    /// `None` for a request that does not run.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) replies: Arc<Lane>,
    /// How long a reply is held when the broker takes none.
    pub(super) patience: Duration,
}

impl Answer {
    pub(super) fn send(self, reply: &Envelope) {
        let Some(route) = &self.question.route else {
            return self.settle();
        };
        let (properties, body) = properties::reply(reply, &self.question);
        let job = Job {
            exchange: name(route.exchange),
            key: name(&route.key),
            properties,
            body,
            outcome: Outcome::Reply {
                permit: self.permit,
                delivery: self.delivery.map(Unsettled::done),
                until: Instant::now() + self.patience,
            },
        };
        self.replies.start();
        if let Err(error) = self.replies.submit(job) {
            tracing::warn!(%error, "a reply was lost");
        }
    }

    fn settle(self) {
        if let Some(delivery) = self.delivery {
            delivery.acknowledge();
        }
    }
}

impl Responder for Answer {
    fn wants_reply(&self) -> bool {
        self.question.route.is_some()
    }

    fn reply(self: Box<Self>, reply: Envelope) {
        self.send(&reply);
    }

    fn finish(self: Box<Self>) {
        self.settle();
    }

    fn give_back(self: Box<Self>, _: Envelope) {
        // The broker has forgotten it, or would with its queue.
        if self.delivery.as_ref().is_none_or(Unsettled::is_last) {
            self.send(&refusal(&stopping()));
        }
    }
}

/// The reply to a request that does not run.
pub(super) fn refusal(status: &Status) -> Envelope {
    Envelope {
        meta: Meta {
            error: Some(Box::new(status.into())),
            ..Meta::default()
        },
        ..Envelope::default()
    }
}
