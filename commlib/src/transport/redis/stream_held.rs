//! What a member of a group has taken and not settled: it speaks for that at the broker, and settles each entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::handle::Handle;
use super::jobs::{Ask, Call, Job};
use super::kept;
use super::resp;
use super::responder::Route;
use super::scripts::Script;
use super::stream::{Ack, Place};
use super::stream_id::EntryId;
use crate::envelope::Envelope;
use crate::transport::Settle;

/// The age of an entry that is given back, in ms, so that the next member to look takes it.
const GIVEN_BACK_MS: &[u8] = b"86400000";
/// A member that did nothing for so long, in ms, and has nothing, is gone.
const GONE_MS: &str = "3600000";
/// Entries spoken for with one command.
const SPOKEN_FOR: usize = 500;

/// What a member shares with the messages that it delivered.
pub(super) struct Shared {
    pub(super) handle: Arc<Handle>,
    pub(super) place: Arc<Place>,
    /// Names this member.
    pub(super) consumer: String,
    /// The stream of dead letters.
    pub(super) letters: String,
    /// Dead letters of the group, about: the oldest go.
    pub(super) most_letters: u32,
    /// What is taken and not settled; with a time if it rests until then.
    pub(super) held: Mutex<BTreeMap<EntryId, Option<Instant>>>,
    pub(super) along: Mutex<Along>,
}

/// Acknowledgements that go along with the next read, in one command and one write. Those that come while the member
/// waits for the broker, or for a handler, go to the writer.
#[derive(Default)]
pub(super) struct Along {
    /// Whether the member reads soon, whatever the handlers do.
    open: bool,
    acks: Vec<Ack>,
}

impl Shared {
    /// Remembers an entry that was taken.
    pub(super) fn hold(&self, id: EntryId) {
        self.held.lock().insert(id, None);
    }

    /// What rested long enough, at most so many.
    pub(super) fn due(&self, now: Instant, most: usize) -> Vec<EntryId> {
        let held = self.held.lock();
        let due = held
            .iter()
            .filter(|(_, until)| until.is_some_and(|until| until <= now));
        due.take(most).map(|(id, _)| *id).collect()
    }

    /// The member hands out a batch, and takes the acknowledgements that come in time along.
    pub(super) fn open(&self) {
        self.along.lock().open = true;
    }

    /// The member takes what is there; what comes later is for the writer.
    pub(super) fn close(&self) -> Vec<Ack> {
        let mut along = self.along.lock();
        along.open = false;
        std::mem::take(&mut along.acks)
    }

    /// The member does not read soon.
    pub(super) fn close_to_writer(&self) {
        for ack in self.close() {
            self.handle.queue(Job::Ack(ack));
        }
    }

    fn acknowledge(&self, ack: Ack) {
        let mut along = self.along.lock();
        if along.open {
            along.acks.push(ack);
        } else {
            drop(along);
            self.handle.queue(Job::Ack(ack));
        }
    }

    pub(super) fn forget_due(&self, due: &[EntryId]) {
        let mut held = self.held.lock();
        for id in due {
            if held.get(id).is_some_and(Option::is_some) {
                held.remove(id);
            }
        }
    }

    /// Says that this member still has what it has.
    pub(super) fn speak(&self) {
        let ids: Vec<EntryId> = self.held.lock().keys().copied().collect();
        for ids in ids.chunks(SPOKEN_FOR) {
            let mut command = Vec::new();
            resp::begin(&mut command, 6 + ids.len());
            resp::word(&mut command, b"XCLAIM");
            resp::word(&mut command, self.place.stream.as_bytes());
            resp::word(&mut command, self.place.group.as_bytes());
            resp::word(&mut command, self.consumer.as_bytes());
            resp::word(&mut command, b"0");
            for id in ids {
                id.write(&mut command);
            }
            resp::word(&mut command, b"JUSTID");
            self.handle.queue(Job::Ask(Ask {
                command,
                what: "speak for messages of a group",
                done: None,
            }));
        }
    }

    /// Lets the next member that looks take an entry.
    fn give_back(&self, id: EntryId) {
        let mut command = Vec::new();
        let words: [&[u8]; 9] = [
            b"XCLAIM",
            self.place.stream.as_bytes(),
            self.place.group.as_bytes(),
            self.consumer.as_bytes(),
            b"0",
            &id.text(),
            b"IDLE",
            GIVEN_BACK_MS,
            b"JUSTID",
        ];
        resp::command(&mut command, &words);
        self.handle.queue(Job::Ask(Ask {
            command,
            what: "give a message of a group back",
            done: None,
        }));
    }

    /// A request is done with.
    fn settle(&self, id: EntryId) {
        let place = &self.place;
        self.handle.queue(Job::Call(Call {
            script: Script::Settle,
            keys: vec![place.stream.clone()],
            arguments: vec![Bytes::copy_from_slice(place.group.as_bytes()), id.text().into()],
            what: "settle a request",
            done: None,
        }));
    }

    pub(super) fn release_resting(&self) {
        let mut released = Vec::new();
        self.held.lock().retain(|id, until| {
            if until.is_some() {
                released.push(*id);
            }
            until.is_none()
        });
        for id in released {
            self.give_back(id);
        }
    }

    /// Removes members from the group that are gone and have nothing; this one too, once it has nothing.
    pub(super) fn tidy(&self) {
        let done = self.held.lock().is_empty();
        let leaving = if done { self.consumer.as_str() } else { "" };
        let keys = vec![self.place.stream.clone()];
        self.handle.call(
            "tidy up a group",
            Script::Tidy,
            keys,
            &[&self.place.group, leaving, GONE_MS],
        );
    }
}

/// See [`Settle`].
pub(super) struct Unsettled {
    pub(super) shared: Arc<Shared>,
    pub(super) id: EntryId,
    pub(super) attempt: u32,
    /// Of a request, who is to be answered, and the answer.
    pub(super) route: Option<Route>,
    pub(super) answer: Option<Envelope>,
    pub(super) settled: bool,
}

impl Unsettled {
    fn send_answer(&mut self) {
        if let (Some(route), Some(answer)) = (self.route.take(), self.answer.take()) {
            kept::answer(&self.shared.handle, route, answer);
        }
    }
}

impl Settle for Unsettled {
    fn answer(&mut self, answer: Envelope) {
        self.answer = Some(answer);
    }

    fn handled(mut self: Box<Self>) {
        self.settled = true;
        self.shared.held.lock().remove(&self.id);
        self.send_answer();
        if self.shared.place.requests {
            return self.shared.settle(self.id);
        }
        self.shared.acknowledge(Ack {
            place: Arc::clone(&self.shared.place),
            id: self.id,
        });
    }

    fn again(mut self: Box<Self>, after: Duration) {
        self.settled = true;
        let until = Instant::now() + after;
        self.shared.held.lock().insert(self.id, Some(until));
    }

    fn dead(mut self: Box<Self>, reason: String) {
        self.settled = true;
        self.shared.held.lock().remove(&self.id);
        self.send_answer();
        let place = &self.shared.place;
        let arguments = [
            place.group.as_bytes(),
            &self.id.text(),
            self.shared.most_letters.to_string().as_bytes(),
            reason.as_bytes(),
            self.attempt.to_string().as_bytes(),
            if place.requests { b"1" } else { b"0" },
        ]
        .map(Bytes::copy_from_slice);
        self.shared.handle.queue(Job::Call(Call {
            script: Script::Bury,
            keys: vec![place.stream.clone(), self.shared.letters.clone()],
            arguments: arguments.to_vec(),
            what: "keep a dead letter",
            done: None,
        }));
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.held.lock().remove(&self.id);
            self.shared.give_back(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_go_along_with_a_read_that_comes_or_to_the_writer() {
        let (handle, mut jobs) = Handle::new();
        let shared = Arc::new(Shared {
            handle,
            place: Place::of_servers("a.b", "group"),
            consumer: "member".to_owned(),
            letters: "letters".to_owned(),
            most_letters: 1,
            held: Mutex::default(),
            along: Mutex::default(),
        });
        let id = |ms: u8| EntryId::read(format!("{ms}-0").as_bytes()).unwrap();
        let handled = |ms: u8| {
            shared.acknowledge(Ack {
                place: Arc::clone(&shared.place),
                id: id(ms),
            });
        };
        let mut written = || match jobs.try_recv() {
            Ok(Job::Ack(ack)) => Some(ack.id),
            _ => None,
        };
        let [before, in_time, late, no_read] = [1, 2, 3, 4];
        handled(before);
        assert_eq!(written(), Some(id(before)));
        shared.open();
        handled(in_time);
        assert_eq!(written(), None);
        let taken = shared.close();
        assert_eq!(taken.iter().map(|ack| ack.id).collect::<Vec<_>>(), [id(in_time)]);
        handled(late);
        assert_eq!(written(), Some(id(late)));
        shared.open();
        handled(no_read);
        shared.close_to_writer();
        assert_eq!(written(), Some(id(no_read)));
        assert_eq!(shared.close().len(), 0);
    }
}
