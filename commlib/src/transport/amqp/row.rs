//! Hands messages to the library from the tasks that send them, where nothing is ahead of them.
//!
//! The first poll of a publish hands it over, and the library writes in order. So on a channel without confirms it is
//! enough to watch the last one of a row: when that is written, all are. The task of the [lane](super::publisher) takes
//! the row that has grown while it watched the one before.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio_util::sync::ReusableBoxFuture;

use super::flight::{Fate, publish};
use super::queue::{Job, Outcome};

/// Messages in a row; more of them wait for the task.
const MAX_MESSAGES: usize = 4 * 1024;
/// Their bodies, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What was handed over since the task looked last.
#[derive(Debug)]
pub(super) struct Handed {
    /// Who is told of their fates, and the sizes of their bodies.
    pub(super) outcomes: Vec<(Outcome, usize)>,
    /// The fate of the last one.
    pub(super) last: ReusableBoxFuture<'static, Fate>,
}

/// The channel of a session, and what was handed over.
pub(super) struct Row {
    channel: Arc<Channel>,
    /// Where requests get their replies.
    reply_to: Option<ShortString>,
    handed: Option<Handed>,
    bytes: usize,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Row {
    pub(super) fn new(channel: &Channel, reply_to: Option<ShortString>) -> Self {
        Self {
            channel: Arc::new(channel.clone()),
            reply_to,
            handed: None,
            bytes: 0,
        }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        let messages = self.handed.as_ref().map_or(0, |handed| handed.outcomes.len());
        messages < MAX_MESSAGES && self.bytes < MAX_BYTES
    }

    /// Hands a message over. Returns whether it is the first of a row.
    pub(super) fn hand_over(&mut self, job: Job) -> bool {
        let mandatory = job.is_mandatory();
        let Job {
            exchange,
            key,
            properties,
            body,
            outcome,
        } = job;
        let properties = match &self.reply_to {
            Some(reply_to) => properties.with_reply_to(reply_to.clone()),
            None => properties,
        };
        let size = body.len();
        self.bytes += size;
        let publish = sent(
            Arc::clone(&self.channel),
            (exchange, key, mandatory),
            properties,
            body,
        );
        let is_first = self.handed.is_none();
        let handed = match &mut self.handed {
            Some(handed) => {
                handed.last.set(publish);
                handed
            }
            none => none.insert(Handed {
                outcomes: Vec::new(),
                last: ReusableBoxFuture::new(publish),
            }),
        };
        // The task polls it again; until then nobody has to be woken.
        if let Poll::Ready(fate) = handed.last.poll(&mut Context::from_waker(Waker::noop())) {
            handed.last.set(std::future::ready(fate));
        }
        match (outcome, handed.outcomes.last_mut()) {
            (
                Outcome::Unconfirmed { messages, turn },
                Some((
                    Outcome::Unconfirmed {
                        messages: all,
                        turn: turns,
                    },
                    bytes,
                )),
            ) => {
                *all += messages;
                turns.merge(turn);
                *bytes += size;
            }
            (outcome, _) => handed.outcomes.push((outcome, size)),
        }
        is_first
    }

    /// What was handed over, if anything was.
    pub(super) fn take(&mut self) -> Option<Handed> {
        self.bytes = 0;
        self.handed.take()
    }
}

async fn sent(
    channel: Arc<Channel>,
    address: (ShortString, ShortString, bool),
    properties: BasicProperties,
    body: bytes::Bytes,
) -> Fate {
    publish(&channel, address, properties, body, Vec::new()).await.1
}
