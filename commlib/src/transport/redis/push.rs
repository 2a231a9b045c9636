//! Requests on their way to their work queues.
//!
//! Whoever sends lays its request down in a row, the row of its work queue, in the form that it has on the connection;
//! the writer takes all rows at once. So a burst of calls wakes the writer once, and a request is copied, not moved from
//! hand to hand.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::encode::{GROUP, GROUP_BYTES};
use super::fault;
use super::resp::Value;
use super::standing::{Look, Standings};
use super::words::Words;
use super::writer::Waiting;
use crate::address::Address;
use crate::envelope::Encoded;
use crate::error::Execution;
use crate::transport::{Accepted, TransportError, TransportErrorKind};

/// Among so many of the latest rows, the one of a work queue is looked for.
const RECENT: usize = 16;

/// Items that are worth a write of their own, whoever else is about to come.
const ENOUGH: usize = 64;

/// Who learns how a push ended.
pub(super) enum Origin {
    /// A call, and only of a failure: success is followed by a reply.
    Call(String),
    Send(oneshot::Sender<Result<Accepted, TransportError>>),
}

/// Items for one work queue.
pub(super) struct Row {
    pub(super) address: Address,
    /// The items.
    pub(super) words: Words,
    /// How long the list has to live at least, in ms.
    pub(super) time_to_live: i64,
    pub(super) origins: Vec<Origin>,
    waiting: Waiting,
}

impl Row {
    fn has_room(&self) -> bool {
        self.origins.len() < GROUP && self.words.len() < GROUP_BYTES
    }

    fn add(&mut self, item: Encoded, time_to_live: i64, origin: Origin) {
        self.words.add(item);
        self.time_to_live = self.time_to_live.max(time_to_live);
        self.origins.push(origin);
    }

    /// Whether there are calls among the pushes.
    pub(super) fn has_calls(&self) -> bool {
        self.origins
            .iter()
            .any(|origin| matches!(origin, Origin::Call(_)))
    }

    fn accepted(origin: Origin) {
        if let Origin::Send(done) = origin {
            let _ = done.send(Ok(Accepted::default()));
        }
    }

    fn fail(waiting: &Waiting, origin: Origin, error: TransportError) {
        match origin {
            Origin::Call(id) => waiting.failed(&id, error),
            Origin::Send(done) => {
                let _ = done.send(Err(error));
            }
        }
    }

    /// All of them failed.
    pub(super) fn failed(self, error: &TransportError) {
        for origin in self.origins {
            Self::fail(&self.waiting, origin, error.clone());
        }
    }

    /// There is no connection.
    pub(super) fn unsent(self) {
        let error = fault::disconnected(&format!("send to `{}`", self.address));
        self.failed(&error);
    }

    /// The connection is gone.
    pub(super) fn lost(self, reason: &str, execution: Execution) {
        let error = fault::lost(&format!("send to `{}`", self.address), reason, execution);
        self.failed(&error);
    }

    /// The broker answered the script that looks before it pushes.
    pub(super) fn pushed(self, answer: &Value, standings: &mut Standings) {
        let accepted = match answer {
            Value::Int(count) => *count,
            answer => return self.not_pushed(answer),
        };
        if accepted < 0 {
            let error = nobody_serves(&self.address);
            return self.failed(&error);
        }
        let accepted = usize::try_from(accepted).unwrap_or(usize::MAX);
        if accepted >= self.origins.len() {
            standings.found_good(self.address.as_str());
        }
        for (index, origin) in self.origins.into_iter().enumerate() {
            if index < accepted {
                Self::accepted(origin);
                continue;
            }
            let text = format!(
                "the queue `{}` is full: {} requests wait in it; its servers are too slow or too few",
                self.address,
                super::QUEUE_LIMIT
            );
            let error = TransportError::did_not_run(TransportErrorKind::QueueFull, text);
            Self::fail(&self.waiting, origin, error);
        }
    }

    /// The broker answered a push with no number.
    fn not_pushed(self, answer: &Value) {
        let error = match answer {
            Value::Error(error) => fault::refused(&format!("send to `{}`", self.address), error),
            _ => fault::unexpected("send"),
        };
        self.failed(&error);
    }

    /// The broker answered the plain commands. What should not have been pushed comes back, with the reason.
    pub(super) fn plainly_pushed(
        self,
        look: Look,
        answer: &Value,
        standings: &mut Standings,
    ) -> Option<(Self, TransportError)> {
        // The length, two times to live, and what the look found.
        let results = match answer {
            Value::Array(results) => results.as_slice(),
            _ => &[],
        };
        let length = match results.first() {
            Some(Value::Int(length)) => *length,
            other => {
                standings.forget(self.address.as_str());
                self.not_pushed(other.unwrap_or(answer));
                return None;
            }
        };
        let absent = match (look, results.get(3..).unwrap_or_default()) {
            (Look::Not, _) => None,
            (_, [Value::Error(error), ..]) => {
                Some(fault::refused(&format!("send to `{}`", self.address), error))
            }
            (Look::Short, [Value::Int(1..), ..]) => None,
            (Look::Long, [presence, time, ..]) if is_present(presence, time) => None,
            _ => Some(nobody_serves(&self.address)),
        };
        if let Some(error) = absent {
            standings.forget(self.address.as_str());
            return Some((self, error));
        }
        standings.pushed(self.address.as_str(), self.origins.len(), length);
        self.origins.into_iter().for_each(Self::accepted);
        None
    }

    /// The broker answered the taking back of these.
    pub(super) fn withdrawn(self, error: &TransportError, answer: &Value) {
        let found = match answer {
            Value::Array(found) => found.as_slice(),
            _ => &[],
        };
        for (index, origin) in self.origins.into_iter().enumerate() {
            match found.get(index).and_then(Value::as_int) {
                // Somebody took it: there was a server after all.
                Some(0) => Self::accepted(origin),
                Some(_) => Self::fail(&self.waiting, origin, error.clone()),
                None => {
                    let error = TransportError {
                        execution: Execution::MayHaveRun,
                        ..error.clone()
                    };
                    Self::fail(&self.waiting, origin, error);
                }
            }
        }
    }
}

fn nobody_serves(address: &Address) -> TransportError {
    let text = format!("nobody serves `{address}`");
    TransportError::did_not_run(TransportErrorKind::NoResponders, text)
}

/// Whether the latest time in a presence, in ms, lies after the broker's time.
fn is_present(presence: &Value, time: &Value) -> bool {
    let score = match presence {
        Value::Array(pairs) => match pairs.first() {
            Some(Value::Array(pair)) => pair.get(1).and_then(Value::as_str),
            _ => None,
        },
        _ => None,
    };
    let part = |index: usize| match time {
        Value::Array(parts) => parts.get(index)?.as_str()?.parse::<f64>().ok(),
        _ => None,
    };
    match (
        score.and_then(|score| score.parse::<f64>().ok()),
        part(0),
        part(1),
    ) {
        (Some(until), Some(seconds), Some(micros)) => until > seconds * 1000.0 + (micros / 1000.0).floor(),
        _ => false,
    }
}

/// The rows that the writer has not taken yet. There are none while it has no connection.
#[derive(Default)]
pub(super) struct Rows(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// Whether there is a connection.
    up: bool,
    rows: Vec<Row>,
    /// How many items are in them.
    items: usize,
    /// Callers that just got their replies and have not called again.
    expected: usize,
    /// How many bytes and items the largest row had when rows were taken last: the first of the next is likely to be as large.
    room: (usize, usize),
}

impl Rows {
    /// Lays an item down. Whether it is the first since the writer took what was there, so that the writer is to be told.
    /// Without a connection it comes back, so that who sends it learns that it was not sent, whatever else is told of
    /// those that were.
    pub(super) fn add(
        &self,
        address: Address,
        item: Encoded,
        time_to_live: i64,
        origin: Origin,
        waiting: &Waiting,
    ) -> Result<bool, (Address, Origin)> {
        let mut open = self.0.lock();
        if !open.up {
            return Err((address, origin));
        }
        open.expected = open.expected.saturating_sub(1);
        open.items += 1;
        let first = open.rows.is_empty();
        let mut recent = open.rows.iter_mut().rev().take(RECENT);
        match recent.find(|row| row.address == address && row.has_room()) {
            Some(row) => row.add(item, time_to_live, origin),
            None => {
                let (bytes, items) = if first { open.room } else { (0, 0) };
                let mut row = Row {
                    address,
                    words: Words::with_room(bytes),
                    time_to_live,
                    origins: Vec::with_capacity(items),
                    waiting: waiting.clone(),
                };
                row.add(item, time_to_live, origin);
                open.rows.push(row);
            }
        }
        Ok(first)
    }

    /// There is a connection.
    pub(super) fn open(&self) {
        self.0.lock().up = true;
    }

    /// There is none any more; what was not written is returned.
    pub(super) fn close(&self) -> Vec<Row> {
        let mut open = self.0.lock();
        std::mem::take(&mut *open).rows
    }

    /// So many callers are about to get their replies, most of which will call again at once.
    pub(super) fn expect(&self, callers: usize) {
        self.0.lock().expected = callers;
    }

    /// Whether more is expected to come at once, and there is not enough for a write yet.
    pub(super) fn expects_more(&self) -> bool {
        let open = self.0.lock();
        open.expected > 0 && open.items < ENOUGH
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> Vec<Row> {
        let mut open = self.0.lock();
        open.items = 0;
        let rooms = open.rows.iter().map(|row| (row.words.len(), row.origins.len()));
        open.room = rooms.max().unwrap_or_default();
        std::mem::take(&mut open.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_queue_is_in_one_row() {
        let rows = Rows::default();
        rows.open();
        let waiting = Waiting {
            sink: std::sync::Arc::default(),
            calls: None,
        };
        let add = |address: &str, item: &[u8], time_to_live| {
            let origin = Origin::Call(String::new());
            rows.add(
                Address::new(address).unwrap(),
                item.to_vec().into(),
                time_to_live,
                origin,
                &waiting,
            )
            .is_ok_and(|first| first)
        };
        assert!(add("a.b", b"1", 7));
        assert!(!add("a.c", b"2", 5));
        assert!(!add("a.b", b"3", 9));
        let taken = rows.take();
        let seen: Vec<_> = taken
            .iter()
            .map(|row| (row.address.as_str(), row.origins.len(), row.time_to_live))
            .collect();
        assert_eq!(seen, [("a.b", 2, 9), ("a.c", 1, 5)]);
        let mut words = Vec::new();
        taken[0].words.write(&mut words);
        assert_eq!(words, b"$1\r\n1\r\n$1\r\n3\r\n");
        let large = vec![0; GROUP_BYTES];
        assert!(add("a.b", &large, 1), "what was taken is gone");
        assert!(!add("a.b", b"1", 1));
        assert_eq!(rows.take().len(), 2, "a row is bounded");
    }

    #[test]
    fn callers_are_expected_until_they_call_or_there_is_enough() {
        let rows = Rows::default();
        rows.open();
        let waiting = Waiting {
            sink: std::sync::Arc::default(),
            calls: None,
        };
        let call = || {
            let origin = Origin::Call(String::new());
            let address = Address::new("a").unwrap();
            let added = rows.add(address, Encoded::default(), 0, origin, &waiting);
            assert!(added.is_ok());
        };
        call();
        assert!(!rows.expects_more());
        rows.expect(2);
        call();
        assert!(rows.expects_more());
        call();
        assert!(!rows.expects_more());
        rows.expect(2 * ENOUGH);
        assert_eq!(rows.take().len(), 1);
        assert!(rows.expects_more());
        for _ in 1..ENOUGH {
            call();
        }
        assert!(rows.expects_more());
        call();
        assert!(!rows.expects_more(), "enough for a write");
    }
}
