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
    members: Vec<Member>,
    /// The last question about it on this connection, by its number. Each group of members that come at once asks anew, also
    /// where others hear it already: the answer tells where in the stream of messages theirs begin.
    asked: Option<u64>,
    /// The last question that the broker answered with a confirmation.
    confirmed: Option<u64>,
    /// When to ask again, after a refusal.
    retry: Option<Instant>,
}

/// A subscription to a channel or glob.
struct Member {
    entry: Arc<Entry>,
    /// The question whose answer it waits for, or has had.
    asked: Option<u64>,
    /// Who waits for the confirmation.
    done: Option<oneshot::Sender<Result<(), TransportError>>>,
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
    /// Where subscriptions came that nobody asked the broker for yet.
    new: Vec<Topic>,
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
            new: Vec::new(),
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
                        Some(command) => {
                            self.command(command);
                            // All are asked for when there is a connection.
                            self.new.clear();
                        }
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
        self.ask_for_all(asked);
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
                    self.ask_for_new();
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
                    self.ask_for_all(now);
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
                let topic = entry.topic().clone();
                let interest = self.interests(topic.glob).entry(topic.name.clone()).or_default();
                interest.retry = None;
                interest.members.push(Member {
                    entry,
                    asked: None,
                    done,
                });
                self.new.push(topic);
            }
            Command::Remove { topic, id } => {
                let Some(interest) = self.interests(topic.glob).get_mut(&topic.name) else {
                    return;
                };
                interest.members.retain(|member| member.entry.id() != id);
                if interest.members.is_empty() {
                    let asked = interest.asked.is_some();
                    self.interests(topic.glob).remove(&topic.name);
                    if asked {
                        topic.command(&mut self.out, false);
                        self.owed.push_back(Owed::Unsubscribed);
                    }
                }
            }
        }
    }

    /// Subscribes for those that came since.
    fn ask_for_new(&mut self) {
        for topic in std::mem::take(&mut self.new) {
            let number = self.asked + 1;
            if let Some(interest) = self.interests(topic.glob).get_mut(&topic.name)
                && interest.ask(number)
            {
                self.question(topic, number);
            }
        }
    }

    /// Subscribes to everything that is not asked for on this connection.
    fn ask_for_all(&mut self, now: Instant) {
        for (glob, interests) in [(true, &self.globs), (false, &self.channels)] {
            let due = interests.iter().filter(|(_, interest)| interest.is_due(now));
            self.new.extend(due.map(|(name, _)| Topic {
                glob,
                name: name.clone(),
            }));
        }
        self.ask_for_new();
    }

    fn question(&mut self, topic: Topic, number: u64) {
        self.asked = number;
        topic.command(&mut self.out, true);
        self.owed.push_back(Owed::Subscribed(topic, number));
    }

    /// The connection is gone, and with it everything that was asked for.
    fn lost(&mut self) {
        self.owed.clear();
        for interest in self.channels.values_mut().chain(self.globs.values_mut()) {
            interest.lost();
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
        match error {
            None => interest.confirmed(number),
            Some(error) => interest.refused(number, &topic, &error),
        }
        if interest.members.is_empty() {
            let others_heard_it = interest.confirmed.is_some();
            self.interests(topic.glob).remove(&topic.name);
            if others_heard_it {
                topic.command(&mut self.out, false);
                self.owed.push_back(Owed::Unsubscribed);
            }
        }
        Ok(())
    }
}

impl Interest {
    /// Whether somebody waits to be asked for.
    fn is_due(&self, now: Instant) -> bool {
        self.retry.is_none_or(|retry| retry <= now)
            && self.members.iter().any(|member| member.asked.is_none())
    }

    /// Takes the number of a question for those that have none. Returns whether there are any.
    fn ask(&mut self, number: u64) -> bool {
        let mut any = false;
        for member in self.members.iter_mut().filter(|member| member.asked.is_none()) {
            member.asked = Some(number);
            any = true;
        }
        if any {
            self.asked = Some(number);
            self.retry = None;
        }
        any
    }

    fn lost(&mut self) {
        (self.asked, self.confirmed, self.retry) = (None, None, None);
        for member in &mut self.members {
            member.asked = None;
        }
    }

    fn message(&self, channel: &str, payload: &Value, behind: &mut Vec<Arc<dyn TopicSink>>) {
        // What comes before a member's confirmation is for others, or for a subscription that was left.
        for member in &self.members {
            if member.asked.is_some() && member.asked <= self.confirmed {
                member.entry.message(channel, payload);
                behind.extend(member.entry.behind());
            }
        }
    }

    fn confirmed(&mut self, number: u64) {
        self.confirmed = Some(number);
        for member in self
            .members
            .iter_mut()
            .filter(|member| member.asked == Some(number))
        {
            member.entry.confirmed();
            if let Some(done) = member.done.take() {
                let _ = done.send(Ok(()));
            }
        }
    }

    /// Who waits is told, and has no subscription; others are asked for again later.
    fn refused(&mut self, number: u64, topic: &Topic, error: &ServerError) {
        let what = format!("subscribe to `{}`", topic.name);
        let mut remaining = false;
        self.members.retain_mut(|member| {
            if member.asked != Some(number) {
                return true;
            }
            member.asked = None;
            if let Some(done) = member.done.take() {
                let _ = done.send(Err(fault::refused(&what, error)));
                return false;
            }
            remaining = true;
            true
        });
        if remaining {
            self.retry = Some(Instant::now() + RETRY);
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

    /// A hub and what its subscriptions heard.
    struct World {
        hub: Hub,
        heard: HashMap<u64, Arc<Listener>>,
    }

    impl World {
        fn new() -> Self {
            let url = crate::transport::BrokerUrl::parse("redis://127.0.0.1").unwrap();
            let tls = crate::transport::Tls::default();
            let endpoint = Endpoint::new(&url, &tls, SILENCE, String::new(), 0).unwrap();
            let (stop, commands) = (CancellationToken::new(), mpsc::unbounded_channel().1);
            Self {
                hub: Hub::new(Arc::new(endpoint), commands, stop),
                heard: HashMap::new(),
            }
        }

        /// Subscribes, and returns where the confirmation comes.
        fn add(&mut self, id: u64) -> oneshot::Receiver<Result<(), TransportError>> {
            let (done, confirmed) = oneshot::channel();
            let listener = Arc::new(Listener::default());
            self.heard.insert(id, Arc::clone(&listener));
            let entry = Arc::new(Entry::new(
                id,
                Pattern::new("a.b").unwrap(),
                100,
                super::super::handle::Handle::new().0,
                super::super::subscription::Outlet::Plain,
                listener,
            ));
            let done = Some(done);
            self.hub.command(Command::Add { entry, done });
            self.hub.ask_for_new();
            confirmed
        }

        fn remove(&mut self, id: u64) {
            let topic = Topic::covering(&Pattern::new("a.b").unwrap());
            self.hub.command(Command::Remove { topic, id });
        }

        fn answer(&mut self, kind: PushKind) -> Result<(), LinkError> {
            self.hub.value(Value::Push(kind, Vec::new()))
        }

        /// A message comes. Returns how many a subscription has heard in all.
        fn hear(&mut self, id: u64) -> usize {
            let parts = ["a.b", r#"{"data":1,"meta":{}}"#].map(|text| Value::Bulk(text.into()));
            self.hub
                .value(Value::Push(PushKind::Message, parts.into()))
                .unwrap();
            self.heard[&id].0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_topic_that_is_left_and_wanted_again_waits_for_its_own_confirmation() {
        let mut world = World::new();
        let mut first = world.add(1);
        world.remove(1);
        let mut second = world.add(2);
        world.answer(PushKind::Subscribe).unwrap();
        assert!(first.try_recv().is_err());
        assert!(second.try_recv().is_err(), "that was the answer to the first");
        assert_eq!(world.hear(2), 0, "published before the second one");
        world.answer(PushKind::Unsubscribe).unwrap();
        world.answer(PushKind::Subscribe).unwrap();
        second.try_recv().unwrap().unwrap();
        assert_eq!(world.hear(2), 1);
        assert!(world.answer(PushKind::Subscribe).is_err());
    }

    #[test]
    fn one_that_joins_others_waits_for_its_own_confirmation() {
        let mut world = World::new();
        let mut first = world.add(1);
        world.answer(PushKind::Subscribe).unwrap();
        first.try_recv().unwrap().unwrap();
        let mut second = world.add(2);
        assert_eq!(world.hear(1), 1);
        assert_eq!(world.hear(2), 0, "published before the broker knew of it");
        assert!(second.try_recv().is_err());
        world.answer(PushKind::Subscribe).unwrap();
        second.try_recv().unwrap().unwrap();
        assert_eq!((world.hear(2), world.hear(1)), (1, 4));
    }

    #[test]
    fn one_that_is_refused_where_others_were_heard_leaves_the_topic() {
        let refuse = |world: &mut World| {
            let Ok(redis::Value::ServerError(error)) = redis::parse_redis_value(b"-NOPERM no\r\n") else {
                panic!("no error");
            };
            world.hub.value(Value::Error(error)).unwrap();
        };
        let mut world = World::new();
        let _first = world.add(1);
        world.answer(PushKind::Subscribe).unwrap();
        let mut second = world.add(2);
        world.remove(1);
        world.hub.out.clear();
        refuse(&mut world);
        assert!(second.try_recv().unwrap().is_err());
        assert!(String::from_utf8_lossy(&world.hub.out).contains("UNSUBSCRIBE"));
        world.answer(PushKind::Unsubscribe).unwrap();
        assert!(world.hub.channels.is_empty() && world.hub.owed.is_empty());
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
