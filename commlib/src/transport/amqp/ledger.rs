//! What one session of a lane has sent, and who is to be told of it.
//!
//! With confirms a message is settled by the broker's word for its number. A message that nobody would get comes back
//! before that, and is told by its id. Without confirms a message is settled when it is written; the requests among those
//! stay for a moment, should it turn out that the broker takes nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use lapin::types::ShortString;
use tokio::time::Instant;

use super::queue::{Job, Outcome};
use super::wire::{Channel, Destination};

/// Messages that the broker has not confirmed; more of them wait.
const MAX_IN_FLIGHT: usize = 8 * 1024;
/// For so long a request that was written may turn out to be one that the broker does not read.
const RECENT: Duration = Duration::from_millis(250);
/// So many are remembered for that.
const MAX_RECENT: usize = 4 * 1024;

/// A message, until it is settled.
#[derive(Debug)]
struct Entry {
    /// It is written when so many bytes are.
    end: u64,
    /// `None` for one that was told of its fate already.
    outcome: Option<Outcome>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Ledger {
    channel: Channel,
    /// Where requests get their replies.
    reply_to: Option<ShortString>,
    confirmed: bool,
    /// The exchange of replies is there.
    pub(super) exchange_declared: bool,
    entries: VecDeque<Entry>,
    /// The number of the first entry, as the broker counts.
    first: u64,
    /// Numbers of messages that must be routed and nobody answers, by id.
    mandatory: HashMap<String, u64>,
    /// Whether there can be requests that wait for replies.
    asked: bool,
}

/// What is left when a session is over.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) asked: bool,
    /// With the number of bytes after which each is written.
    pub(super) outcomes: Vec<(u64, Outcome)>,
}

impl Ledger {
    pub(super) fn new(channel: &Channel, reply_to: Option<ShortString>, confirmed: bool) -> Self {
        Self {
            channel: channel.clone(),
            reply_to,
            confirmed,
            exchange_declared: false,
            entries: VecDeque::new(),
            first: 1,
            mandatory: HashMap::new(),
            asked: false,
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether one more can be sent at once.
    pub(super) fn has_room(&self) -> bool {
        (!self.confirmed || self.entries.len() < MAX_IN_FLIGHT) && self.channel.has_room()
    }

    /// Messages that are not settled.
    pub(super) fn unsettled(&self) -> usize {
        if self.confirmed {
            return self.entries.len();
        }
        let written = self.channel.written();
        let unwritten = self.entries.iter().rev().take_while(|entry| entry.end > written);
        unwritten.count()
    }

    /// Sends a message, or gives it back when the channel is gone.
    pub(super) fn send(&mut self, mut job: Job) -> Result<(), Box<Job>> {
        if let Some(reply_to) = &self.reply_to {
            job.properties = std::mem::take(&mut job.properties).with_reply_to(reply_to.clone());
        }
        let to = Destination {
            exchange: job.exchange.as_str(),
            key: job.key.as_str(),
            mandatory: job.is_mandatory(),
        };
        let is_request = matches!(job.outcome, Outcome::Request { .. });
        let tell = !self.confirmed && !is_request;
        let Some(sent) = self.channel.publish(to, &job.properties, &job.body, tell) else {
            return Err(Box::new(job));
        };
        self.asked |= is_request;
        if !self.confirmed {
            self.forget_old();
        } else if let Outcome::Publish { id: Some(id), .. } = &job.outcome {
            self.mandatory.insert(id.clone(), sent.number);
        }
        self.entries.push_back(Entry {
            end: sent.end,
            outcome: Some(job.outcome),
        });
        Ok(())
    }

    /// Forgets requests that were written a while ago.
    fn forget_old(&mut self) {
        // Two for each that comes, so that they get fewer.
        for _ in 0..2 {
            let Some(Entry {
                end,
                outcome: Some(Outcome::Request { since, .. }),
            }) = self.entries.front()
            else {
                return;
            };
            let old = since.elapsed() > RECENT || self.entries.len() > MAX_RECENT;
            if !old || *end > self.channel.written() {
                return;
            }
            self.entries.pop_front();
        }
    }

    /// So many bytes were written: returns whose message was among them, for what is settled by that.
    pub(super) fn written(&mut self, bytes: u64) -> Vec<Outcome> {
        let mut settled = Vec::new();
        if self.confirmed {
            return settled;
        }
        while let Some(entry) = self.entries.front()
            && entry.end <= bytes
            && !matches!(entry.outcome, Some(Outcome::Request { .. }))
        {
            settled.extend(self.entries.pop_front().and_then(|entry| entry.outcome));
        }
        settled
    }

    /// Whether something is to be settled by being written.
    pub(super) fn waits_for_write(&self) -> bool {
        !self.confirmed
            && self
                .entries
                .back()
                .is_some_and(|entry| !matches!(entry.outcome, Some(Outcome::Request { .. })))
    }

    /// The broker's word for a message, perhaps also for all before it: returns who is to be told.
    pub(super) fn confirmed(&mut self, number: u64, multiple: bool) -> Vec<Outcome> {
        let mut settled = Vec::new();
        let Some(last) = number
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return settled;
        };
        let begin = if multiple { 0 } else { last };
        let end = self.entries.len().min(last.saturating_add(1));
        for at in begin..end {
            let outcome = self.entries.get_mut(at).and_then(|entry| {
                // Settled, whoever was told before.
                entry.end = 0;
                entry.outcome.take()
            });
            if let Some(Outcome::Publish { id: Some(id), .. }) = &outcome {
                self.mandatory.remove(id);
            }
            settled.extend(outcome);
        }
        while self.entries.front().is_some_and(|entry| entry.end == 0) {
            self.entries.pop_front();
            self.first += 1;
        }
        settled
    }

    /// A message that nobody answers came back: returns who is to be told.
    pub(super) fn returned(&mut self, id: &str) -> Option<Outcome> {
        let number = self.mandatory.remove(id)?;
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)?.outcome.take()
    }

    /// The broker takes nothing more, as it says: returns who is to be told. Those whose publishers went on, nobody is told of.
    pub(super) fn blocked(&mut self) -> Vec<Outcome> {
        self.mandatory.clear();
        let now = Instant::now();
        let tell = |outcome: &mut Outcome| match outcome {
            Outcome::Unconfirmed(_) => false,
            Outcome::Request { since, .. } => now.duration_since(*since) <= RECENT || self.confirmed,
            Outcome::Publish { .. } | Outcome::Reply { .. } => true,
        };
        let entries = self.entries.iter_mut();
        let told = entries.filter_map(|entry| entry.outcome.take_if(tell)).collect();
        if !self.confirmed {
            self.entries.retain(|entry| entry.outcome.is_some());
        }
        told
    }

    pub(super) fn into_rest(self) -> Rest {
        let entries = self.entries.into_iter();
        Rest {
            asked: self.asked,
            outcomes: entries
                .filter_map(|entry| Some((entry.end, entry.outcome?)))
                .collect(),
        }
    }
}
