//! Topics: one connection for all subscriptions of a node.
//!
//! A pattern without wildcards is a channel, one with wildcards a glob that covers it; our own matcher then decides.
//! Channels and globs are shared: each has the subscriptions that were made under it, so that a message which comes
//! once per channel and glob that covers it still reaches each subscription once.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use redis::{PushKind, ServerError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::unconstrained;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connection::{Endpoint, IDLE, Link, LinkError, SILENCE};
use super::fault;
use super::resp::{self, Value};
use super::subscription::Entry;
use crate::address::Pattern;
use crate::transport::backoff::Backoff;
use crate::transport::{TopicSink, TransportError};

/// How long a subscription that the broker refuses rests before the next try.
const RETRY: Duration = Duration::from_secs(2);

/// A channel or a glob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Topic {
    pub(super) glob: bool,
    pub(super) name: String,
}

impl Topic {
    /// What covers a pattern. Redis lets `*` cross dots, so it may cover more.
    pub(super) fn covering(pattern: &Pattern) -> Self {
        if pattern.is_literal() {
            return Self {
                glob: false,
                name: pattern.as_str().to_owned(),
            };
        }
        // A final `#` may stand for no level at all: `a.#` has to hear `a`.
        let name = match pattern.as_str().strip_suffix(".#") {
            Some(before) => format!("{before}*"),
            None => pattern.as_str().replace('#', "*"),
        };
        Self { glob: true, name }
    }

    fn command(&self, out: &mut Vec<u8>, subscribe: bool) {
        let name: &[u8] = match (subscribe, self.glob) {
            (true, false) => b"SUBSCRIBE",
            (true, true) => b"PSUBSCRIBE",
            (false, false) => b"UNSUBSCRIBE",
            (false, true) => b"PUNSUBSCRIBE",
        };
        resp::command(out, &[name, self.name.as_bytes()]);
    }
}

/// A wish of a subscription.
pub(super) enum Command {
    Add {
        entry: Arc<Entry>,
        /// Who waits for the confirmation. A refusal ends a subscription only for somebody who is told of it.
        done: Option<oneshot::Sender<Result<(), TransportError>>>,
    },
    Remove {
        topic: Topic,
        id: u64,
    },
}

/// What is known of a channel or glob.
#[derive(Default)]
struct Interest {
    state: State,
    entries: Vec<Arc<Entry>>,
    /// Who waits for the confirmation.
    waiting: Vec<(u64, oneshot::Sender<Result<(), TransportError>>)>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum State {
    /// Not asked for on this connection.
    #[default]
    Wanted,
    /// With the number of the question, as a topic may be left and asked for again meanwhile.
    Asked(u64),
    Confirmed,
    Refused {
        retry: Instant,
    },
}

/// What the broker still has to answer.
enum Owed {
    Subscribed(Topic, u64),
    Unsubscribed,
    Pong,
}

/// The task.
pub(super) struct Hub {
    endpoint: Arc<Endpoint>,
    commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
    channels: HashMap<String, Interest>,
    globs: HashMap<String, Interest>,
    owed: VecDeque<Owed>,
    /// Counts the questions.
    asked: u64,
    out: Vec<u8>,
    /// The readers that the last message has put behind.
    behind: Vec<Arc<dyn TopicSink>>,
}

impl Hub {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        commands: mpsc::UnboundedReceiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            endpoint,
            commands,
            stop,
            channels: HashMap::new(),
            globs: HashMap::new(),
            owed: VecDeque::new(),
            asked: 0,
            out: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// Runs until it is stopped, on one connection after the other.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.run_for_ever() => {}
        }
    }

    async fn run_for_ever(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let endpoint = Arc::clone(&self.endpoint);
            let open = endpoint.open("subscriber");
            tokio::pin!(open);
            let opened = loop {
                tokio::select! {
                    opened = &mut open => break opened,
                    command = self.commands.recv() => match command {
                        Some(command) => self.command(command),
                        None => return,
                    },
                }
            };
            self.out.clear();
            match opened {
                Ok(link) => {
                    backoff = Backoff::new();
                    let Err(error) = self.drive(link).await;
                    let Some(error) = error else { return };
                    tracing::warn!(broker = self.endpoint.address, %error, "the subscriptions lost their connection to the broker");
                    self.lost();
                }
                Err(error) => {
                    tracing::debug!(broker = self.endpoint.address, %error, "the subscriptions cannot connect");
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Ends with the reason, or without one when nobody can give commands any more.
    async fn drive(&mut self, link: Link) -> Result<Infallible, Option<LinkError>> {
        let mut link = link;
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When something was written while the broker owed nothing. To write on proves nothing: a network that forgot the
        // connection takes everything.
        let mut asked = Instant::now();
        let mut owing = false;
        self.ask_for_wanted(asked);
        loop {
            if !self.out.is_empty() {
                match tokio::time::timeout(SILENCE, link.write(&self.out)).await {
                    Ok(result) => result.map_err(Some)?,
                    Err(_) => return Err(Some(LinkError::silent())),
                }
                self.out.clear();
                if !owing {
                    asked = Instant::now();
                }
            }
            owing = !self.owed.is_empty();
            tokio::select! {
                value = link.reader.next() => {
                    self.value(value.map_err(Some)?).map_err(Some)?;
                    self.let_catch_up().await;
                    while let Some(value) = link.reader.ready().map_err(Some)? {
                        self.value(value).map_err(Some)?;
                        self.let_catch_up().await;
                    }
                }
                command = self.commands.recv() => {
                    self.command(command.ok_or(None)?);
                    while let Ok(command) = self.commands.try_recv() {
                        self.command(command);
                    }
                    self.ask_for_wanted(Instant::now());
                }
                now = tick.tick() => {
                    let quiet = now.saturating_duration_since(link.reader.heard.max(asked));
                    if !self.owed.is_empty() && quiet > SILENCE {
                        // Unless the answer is here, and was not looked at because this task did not run or because a reader
                        // had to catch up.
                        match unconstrained(link.reader.next()).now_or_never() {
                            Some(value) => {
                                self.value(value.map_err(Some)?).map_err(Some)?;
                                self.let_catch_up().await;
                            }
                            None => return Err(Some(LinkError::silent())),
                        }
                    }
                    if self.owed.is_empty() && quiet >= IDLE {
                        resp::command(&mut self.out, &[b"PING"]);
                        self.owed.push_back(Owed::Pong);
                    }
                    self.ask_for_wanted(now);
                }
            }
        }
    }

    /// Lets a reader catch up to whom the last message made behind. Meanwhile the broker keeps what comes; how much of it,
    /// it says itself.
    async fn let_catch_up(&mut self) {
        for sink in self.behind.drain(..) {
            sink.catch_up().await;
        }
    }

    fn interests(&mut self, glob: bool) -> &mut HashMap<String, Interest> {
        if glob { &mut self.globs } else { &mut self.channels }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Add { entry, done } => {
                let Topic { glob, name } = entry.topic().clone();
                let interest = self.interests(glob).entry(name).or_default();
                if interest.state == State::Confirmed {
                    entry.confirmed();
                    if let Some(done) = done {
                        let _ = done.send(Ok(()));
                    }
                } else {
                    interest.waiting.extend(done.map(|done| (entry.id(), done)));
                    if matches!(interest.state, State::Refused { .. }) {
                        interest.state = State::Wanted;
                    }
                }
                interest.entries.push(entry);
            }
            Command::Remove { topic, id } => {
                let Some(interest) = self.interests(topic.glob).get_mut(&topic.name) else {
                    return;
                };
                interest.entries.retain(|entry| entry.id() != id);
                interest.waiting.retain(|(waiting, _)| *waiting != id);
                if interest.entries.is_empty() {
                    let state = interest.state;
                    self.interests(topic.glob).remove(&topic.name);
                    if matches!(state, State::Asked(_) | State::Confirmed) {
                        topic.command(&mut self.out, false);
                        self.owed.push_back(Owed::Unsubscribed);
                    }
                }
            }
        }
    }

    /// Subscribes to what is not yet asked for on this connection.
    fn ask_for_wanted(&mut self, now: Instant) {
        let globs = self
            .globs
            .iter_mut()
            .map(|(name, interest)| (true, name, interest));
        let channels = self
            .channels
            .iter_mut()
            .map(|(name, interest)| (false, name, interest));
        for (glob, name, interest) in globs.chain(channels) {
            let due = match interest.state {
                State::Wanted => true,
                State::Refused { retry } => retry <= now,
                State::Asked(_) | State::Confirmed => false,
            };
            if due {
                self.asked += 1;
                interest.state = State::Asked(self.asked);
                let topic = Topic {
                    glob,
                    name: name.clone(),
                };
                topic.command(&mut self.out, true);
                self.owed.push_back(Owed::Subscribed(topic, self.asked));
            }
        }
    }

    /// The connection is gone, and with it everything that was asked for.
    fn lost(&mut self) {
        self.owed.clear();
        for interest in self.channels.values_mut().chain(self.globs.values_mut()) {
            interest.state = State::Wanted;
        }
    }

    fn value(&mut self, value: Value) -> Result<(), LinkError> {
        match value {
            Value::Push(kind, parts) => match (kind, parts.as_slice()) {
                (PushKind::Message, [channel, payload]) => {
                    if let Some(channel) = channel.as_str()
                        && let Some(interest) = self.channels.get(channel)
                    {
                        interest.message(channel, payload, &mut self.behind);
                    }
                }
                (PushKind::PMessage, [glob, channel, payload]) => {
                    if let Some(channel) = channel.as_str()
                        && let Some(interest) = glob.as_str().and_then(|glob| self.globs.get(glob))
                    {
                        interest.message(channel, payload, &mut self.behind);
                    }
                }
                (
                    PushKind::Subscribe
                    | PushKind::PSubscribe
                    | PushKind::Unsubscribe
                    | PushKind::PUnsubscribe,
                    _,
                ) => self.owed(None)?,
                _ => {}
            },
            Value::Error(error) => self.owed(Some(error))?,
            _ => self.owed(None)?,
        }
        Ok(())
    }

    /// The broker answered the oldest of what it owed.
    fn owed(&mut self, error: Option<ServerError>) -> Result<(), LinkError> {
        let Owed::Subscribed(topic, number) = self.owed.pop_front().ok_or_else(LinkError::unexpected)? else {
            return Ok(());
        };
        let Some(interest) = self.interests(topic.glob).get_mut(&topic.name) else {
            return Ok(());
        };
        if interest.state != State::Asked(number) {
            return Ok(());
        }
        let Some(error) = error else {
            interest.confirmed();
            return Ok(());
        };
        interest.refused(&topic, &error);
        if interest.entries.is_empty() {
            self.interests(topic.glob).remove(&topic.name);
        }
        Ok(())
    }
}

impl Interest {
    fn message(&self, channel: &str, payload: &Value, behind: &mut Vec<Arc<dyn TopicSink>>) {
        // What comes before the confirmation is for a subscription that was left, not for those that wait for theirs.
        if self.state != State::Confirmed {
            return;
        }
        for entry in &self.entries {
            entry.message(channel, payload);
            behind.extend(entry.behind());
        }
    }

    fn confirmed(&mut self) {
        self.state = State::Confirmed;
        for entry in &self.entries {
            entry.confirmed();
        }
        for (_, done) in self.waiting.drain(..) {
            let _ = done.send(Ok(()));
        }
    }

    fn refused(&mut self, topic: &Topic, error: &ServerError) {
        let what = format!("subscribe to `{}`", topic.name);
        for (id, done) in self.waiting.drain(..) {
            self.entries.retain(|entry| entry.id() != id);
            let _ = done.send(Err(fault::refused(&what, error)));
        }
        self.state = State::Refused {
            retry: Instant::now() + RETRY,
        };
        if !self.entries.is_empty() {
            tracing::warn!(
                topic = topic.name,
                error = fault::text(error),
                "the broker refuses a subscription that it had; trying on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts what it hears.
    #[derive(Default)]
    struct Listener(AtomicUsize);

    impl TopicSink for Listener {
        fn message(&self, _: crate::transport::TopicMessage) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn gap(&self) {}
        fn dropped(&self, _: &str) {}
    }

    #[test]
    fn a_topic_that_is_left_and_wanted_again_waits_for_its_own_confirmation() {
        let url = crate::transport::BrokerUrl::parse("redis://127.0.0.1").unwrap();
        let endpoint =
            Endpoint::new(&url, &crate::transport::Tls::default(), SILENCE, String::new(), 0).unwrap();
        let mut hub = Hub::new(
            Arc::new(endpoint),
            mpsc::unbounded_channel().1,
            CancellationToken::new(),
        );
        let listener = Arc::new(Listener::default());
        let hear = |hub: &mut Hub| {
            let parts = ["a.b", r#"{"data":1,"meta":{}}"#].map(|text| Value::Bulk(text.into()));
            hub.value(Value::Push(PushKind::Message, parts.into())).unwrap();
            listener.0.load(Ordering::Relaxed)
        };
        let add = |hub: &mut Hub, id| {
            let (done, confirmed) = oneshot::channel();
            let entry = Arc::new(Entry::new(
                id,
                Pattern::new("a.b").unwrap(),
                100,
                super::super::handle::Handle::new().0,
                super::super::subscription::Outlet::Plain,
                Arc::clone(&listener) as Arc<dyn TopicSink>,
            ));
            hub.command(Command::Add {
                entry,
                done: Some(done),
            });
            hub.ask_for_wanted(Instant::now());
            confirmed
        };
        let topic = Topic::covering(&Pattern::new("a.b").unwrap());
        let mut first = add(&mut hub, 1);
        hub.command(Command::Remove { topic, id: 1 });
        let mut second = add(&mut hub, 2);
        hub.value(Value::Push(PushKind::Subscribe, Vec::new())).unwrap();
        assert!(first.try_recv().is_err());
        assert!(second.try_recv().is_err(), "that was the answer to the first");
        assert_eq!(hear(&mut hub), 0, "published before the second one");
        hub.value(Value::Push(PushKind::Unsubscribe, Vec::new())).unwrap();
        hub.value(Value::Push(PushKind::Subscribe, Vec::new())).unwrap();
        second.try_recv().unwrap().unwrap();
        assert_eq!(hear(&mut hub), 1);
        assert!(hub.value(Value::Push(PushKind::Subscribe, Vec::new())).is_err());
    }

    #[test]
    fn globs_cover_patterns() {
        let covering = |text| {
            let topic = Topic::covering(&Pattern::new(text).unwrap());
            (topic.glob, topic.name)
        };
        assert_eq!(covering("a.b"), (false, "a.b".into()));
        assert_eq!(covering("a.*.c"), (true, "a.*.c".into()));
        assert_eq!(covering("a.#"), (true, "a*".into()));
        assert_eq!(covering("*.#"), (true, "**".into()));
        assert_eq!(covering("#"), (true, "*".into()));
    }
}
