//! What the last server of a work queue does before it leaves it.
//!
//! A work queue goes with its last consumer, and whatever waits in it goes too, without a word to anybody. So a server
//! that stops asks how many consumers a queue has, and when it is the only one it answers what waits there: that did
//! not run. Two servers that stop at the same moment could each take the other for one that stays. So while there is
//! something to lose, and somebody else, it asks again after a short time that is another one each time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use futures_util::stream::{FuturesOrdered, StreamExt};
use lapin::types::ShortString;
use tokio::time::{Instant, timeout_at};

use super::acks::{Acks, Unsettled};
use super::auto_ack::stopping;
use super::consumer::Task;
use super::properties::short;
use super::wire::Channel;
use crate::error::{Execution, Status};
use crate::limits::QUEUE_LENGTH;

/// How long a server that stops answers what waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that the broker is asked for at once.
const AHEAD: usize = 16;
/// A server that is not alone asks again within this time.
const SPREAD: Duration = Duration::from_millis(50);

/// What is in a queue, and whether nobody else takes from it.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    waiting: u32,
    alone: bool,
}

impl Task {
    /// Answers what waits in queues that nobody else takes from. Returns which these are.
    pub(super) async fn answer_what_waits(&self, acks: &Arc<Acks>) -> Vec<bool> {
        let until = Instant::now() + PATIENCE;
        let channel = acks.channel();
        let queues = self.spec.addresses.iter();
        // They were declared by these names.
        let queues: Vec<_> = queues
            .filter_map(|it| short("address", it.as_str()).ok())
            .collect();
        let mut seen = self.look(channel, &queues, until).await;
        if seen.iter().any(|queue| queue.waiting > 0 && !queue.alone) {
            tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
            seen = self.look(channel, &queues, until).await;
        }
        for (queue, seen) in queues.iter().zip(&seen) {
            if seen.alone && seen.waiting > 0 {
                self.empty(acks, queue, until).await;
            }
        }
        let alone: Vec<_> = seen.iter().map(|queue| queue.alone).collect();
        if !alone.is_empty() && alone.iter().all(|alone| *alone) {
            acks.set_last();
        }
        alone
    }

    async fn look(&self, channel: &Channel, queues: &[ShortString], until: Instant) -> Vec<Seen> {
        let declared = queues.iter().map(|queue| self.declare(channel, queue));
        let declared = timeout_at(until, future::join_all(declared)).await;
        let seen = declared.unwrap_or_default().into_iter().map(|queue| {
            queue.map_or_else(
                |error| {
                    tracing::debug!(%error, "cannot tell whether this is the last server");
                    Seen::default()
                },
                |queue| Seen {
                    waiting: queue.message_count(),
                    alone: queue.consumer_count() <= 1,
                },
            )
        });
        seen.collect()
    }

    /// Answers what is in a queue, up to as many requests as it can hold.
    async fn empty(&self, acks: &Arc<Acks>, queue: &ShortString, until: Instant) {
        let ask = || acks.channel().get(queue);
        let mut asked: FuturesOrdered<_> = (0..AHEAD).map(|_| ask()).collect();
        let mut left = u32::from(QUEUE_LENGTH);
        let mut answered = 0_u32;
        while let Ok(Some(Ok(got))) = timeout_at(until, asked.next()).await {
            let Some(message) = got else { continue };
            answered += 1;
            let unsettled = Unsettled::new(acks, message.delivery_tag);
            let status = stopping_before(message.redelivered);
            self.refuse(message, Some(unsettled), &status);
            left = left.saturating_sub(1);
            if left > 0 {
                asked.push_back(ask());
            }
        }
        tracing::info!(service = %self.spec.service, %queue, answered, "the last server stops: requests that waited were not run");
    }
}

/// What a request is told that did not start here.
pub(super) fn stopping_before(redelivered: bool) -> Status {
    if redelivered {
        // It did perhaps start elsewhere.
        stopping().with_execution(Execution::MayHaveRun)
    } else {
        stopping()
    }
}
