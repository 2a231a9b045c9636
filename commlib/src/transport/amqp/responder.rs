//! Ends the handling of one delivery: acknowledges on the channel that it came on, and answers through the lane of
//! replies, which is on the other connection.
//!
//! An acknowledgement is handed to the library without waiting for it to be written, so the library writes many at
//! once. It is sent when the reply is in the lane: should the process die between the two writes, the caller hears
//! nothing, but no handler runs twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::OwnedSemaphorePermit;

use super::properties::{self, Question, name};
use super::publisher::{Job, Lane, Outcome};
use crate::envelope::Envelope;
use crate::transport::Responder;

/// A delivery that the broker waits to hear about. Dropping it gives the message back.
pub(super) struct Unsettled {
    channel: Option<Arc<Channel>>,
    tag: u64,
}

impl Unsettled {
    pub(super) fn new(channel: &Arc<Channel>, tag: u64) -> Self {
        Self {
            channel: Some(Arc::clone(channel)),
            tag,
        }
    }

    pub(super) fn acknowledge(mut self) {
        if let Some(channel) = self.channel.take() {
            // The first poll hands it over. On a channel that is gone there is nothing to acknowledge: the broker has
            // given the message to another consumer.
            let _ = channel
                .basic_ack(self.tag, BasicAckOptions::default())
                .now_or_never();
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            let _ = channel.basic_nack(self.tag, options).now_or_never();
        }
    }
}

/// See [`Responder`].
pub(super) struct Answer {
    pub(super) delivery: Unsettled,
    pub(super) question: Question,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) replies: Arc<Lane>,
    /// How long a reply is held when the broker takes none.
    pub(super) patience: Duration,
}

impl Responder for Answer {
    fn wants_reply(&self) -> bool {
        self.question.route.is_some()
    }

    fn reply(self: Box<Self>, reply: Envelope) {
        let Some(route) = &self.question.route else {
            return self.finish();
        };
        let (properties, body) = properties::reply(&reply, &self.question);
        let job = Job {
            exchange: name(route.exchange),
            key: name(&route.key),
            properties,
            body,
            outcome: Outcome::Reply {
                permit: self.permit,
                until: Instant::now() + self.patience,
            },
        };
        self.replies.start();
        if let Err(error) = self.replies.submit(job) {
            tracing::warn!(%error, "a reply was lost");
        }
        self.delivery.acknowledge();
    }

    fn finish(self: Box<Self>) {
        self.delivery.acknowledge();
    }

    fn give_back(self: Box<Self>, _: Envelope) {
        drop(self.delivery);
    }
}
