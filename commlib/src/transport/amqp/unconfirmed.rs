//! Messages whose publishers don't wait for the broker: they go on as soon as theirs is handed to the connection, and
//! wait only while too much of that is not written.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::sync::OwnedSemaphorePermit;

use super::errors;
use super::publisher::{Lane, MAX_UNCONFIRMED};
use super::queue::{Job, Outcome, State};
use crate::error::Execution;
use crate::transport::{Accepted, TransportError};

/// Bodies of messages whose publishers went on and that are not written, in bytes, about; one more may be larger.
const MAX_UNWRITTEN: usize = 8 * 1024 * 1024;

/// How much of the bound on what is not written yet a message takes.
fn weight(body: usize) -> u32 {
    let weight = 1 + body / (MAX_UNWRITTEN / MAX_UNCONFIRMED);
    u32::try_from(weight.min(MAX_UNCONFIRMED)).unwrap_or(1)
}

fn unconfirmed(
    exchange: ShortString,
    key: ShortString,
    (properties, body): (BasicProperties, Bytes),
    turn: OwnedSemaphorePermit,
) -> Job {
    Job {
        exchange,
        key,
        properties,
        body,
        outcome: Outcome::Unconfirmed(turn),
    }
}

impl Lane {
    /// Whether a message that nobody is told about can probably be sent at once.
    pub(super) fn is_open(&self) -> bool {
        self.turns.available_permits() > 0 && self.slot.blocked().is_none() && self.queue.lock().is_open()
    }

    /// Sends a message that nobody is told about, if that can be done at once.
    pub(super) fn offer(
        &self,
        exchange: ShortString,
        key: ShortString,
        message: (BasicProperties, Bytes),
    ) -> bool {
        let Ok(_first) = self.line.try_lock() else {
            return false;
        };
        let turn = Arc::clone(&self.turns).try_acquire_many_owned(weight(message.1.len()));
        turn.is_ok_and(|turn| {
            let job = unconfirmed(exchange, key, message, turn);
            self.queue.lock().send(job).is_ok()
        })
    }

    /// Waits until a message can be sent at once, or can't be for another reason than what goes before it.
    async fn room(&self) {
        loop {
            let room = self.room.notified();
            {
                let queue = self.queue.lock();
                if queue.is_open() || !matches!(queue.state, State::Up) {
                    return;
                }
                if let Some(ledger) = &queue.ledger {
                    ledger.channel().tell();
                }
                // There may have been the last write just now.
                if queue.is_open() {
                    return;
                }
            }
            room.await;
        }
    }

    /// Waits until a message that nobody is told about can be sent, and does that.
    pub(super) async fn publish_unconfirmed(
        self: &Arc<Self>,
        exchange: ShortString,
        key: ShortString,
        message: (BasicProperties, Bytes),
    ) -> Result<Accepted, TransportError> {
        self.start();
        let late = errors::timeout(
            &format!("publishing to `{key}`"),
            self.limit,
            Execution::DidNotRun,
        );
        let turn = Arc::clone(&self.turns).acquire_many_owned(weight(message.1.len()));
        let publish = async {
            let _first = self.line.lock().await;
            let turn = turn.await.map_err(|_| TransportError::closed())?;
            let mut job = Box::new(unconfirmed(exchange, key, message, turn));
            loop {
                self.ready().await?;
                if let Some(reason) = self.slot.blocked() {
                    return Err(errors::blocked(&reason, Execution::DidNotRun));
                }
                let sent = self.queue.lock().send(*job);
                match sent {
                    Ok(()) => break,
                    Err(back) => job = back,
                }
                self.room().await;
                tokio::task::yield_now().await;
            }
            Ok(Accepted {
                unconfirmed: true,
                ..Accepted::default()
            })
        };
        tokio::time::timeout(self.limit, publish)
            .await
            .unwrap_or(Err(late))
    }
}
