//! One subscription: what it wants, where its messages go, and its end.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Life;
use super::clock::Clock;
use super::group::Candidate;
use super::handle::Handle;
use super::pubsub::{Command, Topic};
use super::resp::Value;
use crate::address::Pattern;
use crate::envelope::{Envelope, Malformed, native};
use crate::limits::too_large;
use crate::transport::{Subscription, TopicMessage, TopicSink};

/// A subscription as the connection sees it.
pub(super) struct Entry {
    id: u64,
    topic: Topic,
    pattern: Pattern,
    max_body: usize,
    handle: Arc<Handle>,
    outlet: Outlet,
    state: Mutex<State>,
}

/// Where messages go.
pub(super) enum Outlet {
    Plain,
    /// To be claimed first. Bounded; what does not fit is reported as dropped.
    Group(mpsc::Sender<Candidate>),
}

struct State {
    /// Nothing after the end. Emptied under the lock, so that a delivery which runs is over when the end has come.
    sink: Option<Arc<dyn TopicSink>>,
    /// Whether the broker has confirmed it before, or its owner was not made to wait for that.
    confirmed: bool,
}

impl Entry {
    pub(super) fn new(
        id: u64,
        pattern: Pattern,
        max_body: usize,
        handle: Arc<Handle>,
        outlet: Outlet,
        sink: Arc<dyn TopicSink>,
    ) -> Self {
        Self {
            id,
            topic: Topic::covering(&pattern),
            pattern,
            max_body,
            handle,
            outlet,
            state: Mutex::new(State {
                sink: Some(sink),
                confirmed: false,
            }),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// It is in its owner's hands before the broker knows of it: what it misses until then is a gap.
    pub(super) fn begins_later(&self) {
        self.state.lock().confirmed = true;
    }

    /// The broker confirmed it. If it is not for the first time, there was a gap.
    pub(super) fn confirmed(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.confirmed, true)
            && let Some(sink) = &state.sink
        {
            sink.gap();
        }
    }

    /// The sink, if its reader is behind.
    pub(super) fn behind(&self) -> Option<Arc<dyn TopicSink>> {
        let state = self.state.lock();
        state.sink.as_ref().filter(|sink| sink.is_behind()).cloned()
    }

    /// A message of the channel or glob that covers this subscription.
    pub(super) fn message(&self, channel: &str, payload: &Value) {
        if !self.pattern.matches(channel) {
            return;
        }
        let message = match payload {
            Value::Bulk(bytes) => read(bytes, &self.handle.clock),
            Value::Skipped(skipped) => Err(Malformed::new(format!("it has {} bytes", skipped.size))),
            _ => Err(Malformed::new("it is no string")),
        };
        match (message, payload) {
            (Err(error), _) => self.dropped(&error.to_string()),
            (Ok(message), _) if message.data.len() > self.max_body => {
                self.dropped(&too_large("it", message.data.len(), self.max_body))
            }
            (Ok(message), Value::Bulk(raw)) => self.pass(channel, message, raw),
            (Ok(_), _) => {}
        }
    }

    fn pass(&self, channel: &str, message: Envelope, raw: &Bytes) {
        match &self.outlet {
            Outlet::Plain => self.deliver(TopicMessage {
                address: channel.to_owned(),
                message,
                permit: None,
                tracked: None,
            }),
            Outlet::Group(queue) => {
                let candidate = Candidate::new(channel, message, raw);
                if queue.try_send(candidate).is_err() {
                    self.dropped("the members of the group are too slow");
                }
            }
        }
    }

    pub(super) fn deliver(&self, message: TopicMessage) {
        if let Some(sink) = &self.state.lock().sink {
            sink.message(message);
        }
    }

    pub(super) fn dropped(&self, reason: &str) {
        if let Some(sink) = &self.state.lock().sink {
            sink.dropped(reason);
        }
    }

    pub(super) fn gap(&self) {
        if let Some(sink) = &self.state.lock().sink {
            sink.gap();
        }
    }

    fn end(&self) {
        self.state.lock().sink = None;
    }
}

fn read(bytes: &Bytes, clock: &Clock) -> Result<Envelope, Malformed> {
    let mut message = native::decode_topic(bytes)?;
    clock.read(&mut message.meta);
    Ok(message)
}

/// The handle that the layer above keeps. Until the broker has confirmed, it only undoes the attempt.
pub(super) struct SubscriptionHandle {
    pub(super) entry: Arc<Entry>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) group: Option<GroupEnd>,
    pub(super) _life: Life,
}

/// The end of a group membership.
pub(super) struct GroupEnd {
    pub(super) stop: CancellationToken,
    pub(super) ended: watch::Receiver<bool>,
}

impl SubscriptionHandle {
    fn remove(&self) {
        // The hub is gone only when the transport is.
        let _ = self.commands.send(Command::Remove {
            topic: self.entry.topic().clone(),
            id: self.entry.id(),
        });
    }
}

impl Subscription for SubscriptionHandle {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.remove();
        if let Some(group) = &self.group {
            group.stop.cancel();
        }
        Box::pin(async move {
            if let Some(group) = &self.group {
                // What is claimed is delivered; claims are answered soon or end with the connection.
                let _ = group.ended.clone().wait_for(|ended| *ended).await;
            }
            self.entry.end();
        })
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        self.remove();
        match &self.group {
            Some(group) => group.stop.cancel(),
            None => self.entry.end(),
        }
    }
}
