//! Keeps connections: one slot for publishing and one for consuming, each a sequence of generations.
//!
//! The client library's own recovery is off, because with it calls in flight wait out an outage, and it gives up
//! without a word. Here the end of a connection ends everything on it at once; then a slot tries again, without a
//! limit. What lived on the connection (lanes, consumers, subscriptions) watches [`Slot::links`] and builds itself
//! anew on each.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use lapin::{Connection, Event};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connector::{KillHandle, Opened, Target};
use super::errors;
use super::properties::name;
use super::wire::{Channel, Wire};
use crate::error::ConnectError;
use crate::transport::backoff::Backoff;
use crate::transport::{ConnectionState, TransportError};

/// How long the broker may take for its goodbye: all that matters was flushed before.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long the broker may take to deal with what was written on a channel before.
const CHANNEL_CLOSE: Duration = Duration::from_millis(400);
/// How long the last deliveries may take to be settled when the connection is about to close.
const LAST_SETTLE: Duration = Duration::from_millis(300);
/// How often a connection that is being closed is looked at.
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// A refused login is tried again, as passwords are changed at the broker and here at different times, but slowly.
const AUTH_RETRY: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(5);
/// How often the state of a connection is looked at, should an event be missed.
const LOOK: Duration = Duration::from_secs(1);
/// How long callers may take to be told that a connection is gone; a millisecond is usual.
const SETTLE: Duration = Duration::from_secs(1);

/// What a connection is for. A broker under an alarm stops reading from connections that publish, so taking and
/// acknowledging need their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Publishing,
    Consuming,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

/// One generation of a connection.
pub(super) struct Link {
    connection: Connection,
    wire: Arc<Wire>,
    pub(super) generation: u64,
    limit: Duration,
    heartbeat: Duration,
    handle: KillHandle,
    /// About to be closed in good order.
    closing: CancellationToken,
    dead: CancellationToken,
    blocked: watch::Sender<Option<Arc<str>>>,
    /// Those who tell callers when the connection is gone.
    sessions: TaskTracker,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("generation", &self.generation)
            .field("dead", &self.dead.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn channel(&self) -> BoxFuture<'_, Result<Channel, TransportError>> {
        async move {
            let opened = errors::bounded("opening a channel", self.limit, self.connection.create_channel());
            Ok(self.wire.attach(opened.await?))
        }
        .boxed()
    }

    /// Resolves when the connection is gone.
    pub(super) async fn dead(&self) {
        self.dead.cancelled().await;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Until the token is dropped, it is not announced that the connection is gone.
    pub(super) fn session(&self) -> TaskTrackerToken {
        self.sessions.token()
    }

    /// Closes a channel when its deliveries are settled, and before the connection is closed: the broker may forget what
    /// comes right before the end of a connection, and answers the close of a channel when it has dealt with all that
    /// was written on it.
    pub(super) fn close_channel(self: &Arc<Self>, channel: Channel, settled: CancellationToken) {
        let (link, session) = (Arc::clone(self), self.session());
        let closing = async move {
            tokio::select! {
                () = settled.cancelled() => {}
                () = link.dead() => return,
                () = link.closing.cancelled() => {
                    let _ = tokio::time::timeout(LAST_SETTLE, settled.cancelled()).await;
                }
            }
            let _ = tokio::time::timeout(CHANNEL_CLOSE, channel.close(200, name("closed"))).await;
            drop(session);
        };
        tokio::spawn(closing.boxed());
    }

    /// Why the broker takes no publishes, while it takes none.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    /// Watches until the connection is gone, and says why.
    async fn watch(&self, events: impl Stream<Item = Event>, role: Role, board: &Board) -> String {
        let mut events = pin!(events);
        let mut deaf = pin!(self.deaf());
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                reason = &mut deaf => return reason,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(%reason, "the broker blocks publishers");
                        // The state is there before anybody is told of it, and after all may publish again.
                        let text: Arc<str> = reason.as_str().into();
                        board.set(role, SlotState::Blocked { generation: self.generation, reason });
                        self.blocked.send_replace(Some(text));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        self.blocked.send_replace(None);
                        board.set(role, SlotState::Up { generation: self.generation });
                    }
                    // Errors of channels come here too; only the state tells them apart.
                    Some(Event::Error(error)) if !self.connection.status().connected() => {
                        return error.to_string();
                    }
                    Some(_) => {}
                    None => return "the connection ended".to_owned(),
                },
                _ = look.tick() => if !self.connection.status().connected() {
                    return "the connection ended".to_owned();
                },
            }
        }
    }

    /// Resolves when the broker hears nothing any more. Its heartbeats, which the library listens for, say that it
    /// speaks; a network may still lose what goes there.
    async fn deaf(&self) -> String {
        let (every, limit) = (self.heartbeat / 2, self.heartbeat * 3 / 2);
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let Ok(channel) = self.channel().await else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(every).await;
            // A question without any effect. Under an alarm nothing is read that would be answered; an error is seen elsewhere.
            let question = channel.basic_qos(1, lapin::options::BasicQosOptions::default());
            let answered = tokio::time::timeout(limit, question).await.is_ok();
            if !answered && self.blocked.borrow().is_none() {
                return format!("the broker did not answer within {limit:?}");
            }
        }
    }

    /// Closes in good order where the broker plays along, and for certain.
    async fn close(&self, grace: Duration) {
        // A broker that blocks publishers does not read the close either.
        if !self.connection.status().blocked() && self.connection.status().connected() {
            let close = self.connection.close(200, name("closed"));
            // When a channel closes at the same moment, the library ends in an error and never resolves the close.
            let ended = async {
                let mut look = tokio::time::interval(CLOSE_LOOK);
                while self.connection.status().connected() || self.connection.status().closing() {
                    look.tick().await;
                }
            };
            let either = async {
                tokio::select! {
                    _ = close => {}
                    () = ended => {}
                }
            };
            let _ = tokio::time::timeout(grace.min(CLOSE_LIMIT), either).await;
        }
        self.handle.kill();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.handle.kill();
    }
}

#[derive(Debug, Clone)]
enum SlotState {
    Unused,
    Connecting { attempt: u32, reason: String },
    Up { generation: u64 },
    Blocked { generation: u64, reason: String },
}

impl SlotState {
    const fn generation(&self) -> u64 {
        match self {
            Self::Up { generation } | Self::Blocked { generation, .. } => *generation,
            Self::Unused | Self::Connecting { .. } => 0,
        }
    }
}

/// Makes one state of the states of both slots.
#[derive(Debug)]
pub(super) struct Board {
    slots: Mutex<[SlotState; 2]>,
    state: watch::Sender<ConnectionState>,
}

impl Board {
    pub(super) fn new() -> Self {
        let (state, _) = watch::channel(ConnectionState::Connecting {
            attempt: 0,
            reason: String::new(),
        });
        Self {
            slots: Mutex::new([SlotState::Unused, SlotState::Unused]),
            state,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(super) fn close(&self) {
        self.state.send_replace(ConnectionState::Closed);
    }

    fn set(&self, role: Role, state: SlotState) {
        let mut slots = self.slots.lock();
        slots[role as usize] = state;
        let combined = Self::combine(&slots);
        self.state.send_if_modified(|current| {
            let changed = *current != ConnectionState::Closed && *current != combined;
            if changed {
                *current = combined;
            }
            changed
        });
    }

    fn combine(slots: &[SlotState; 2]) -> ConnectionState {
        for slot in slots {
            if let SlotState::Connecting { attempt, reason } = slot {
                return ConnectionState::Connecting {
                    attempt: *attempt,
                    reason: reason.clone(),
                };
            }
        }
        for slot in slots {
            if let SlotState::Blocked { reason, .. } = slot {
                return ConnectionState::Blocked {
                    reason: reason.clone(),
                };
            }
        }
        match slots {
            [SlotState::Unused, _] => ConnectionState::Connecting {
                attempt: 0,
                reason: String::new(),
            },
            // The second connection is opened when it is needed; that alone is no new generation.
            [publishing, consuming] => ConnectionState::Connected {
                generation: publishing.generation() + consuming.generation().saturating_sub(1),
            },
        }
    }
}

/// One connection and its successors. Never more than one attempt is alive.
pub(super) struct Slot {
    role: Role,
    target: Arc<Target>,
    board: Arc<Board>,
    operation_timeout: Duration,
    links: watch::Sender<Option<Arc<Link>>>,
    /// What the board says: whoever reads there that it is connected is not turned away here.
    announced: watch::Sender<bool>,
    started: AtomicBool,
    stop: CancellationToken,
    /// How long closing may take once it is stopped.
    grace: Mutex<Duration>,
    done: CancellationToken,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("role", &self.role)
            .field("link", &*self.links.borrow())
            .finish_non_exhaustive()
    }
}

impl Slot {
    pub(super) fn new(
        role: Role,
        target: Arc<Target>,
        board: Arc<Board>,
        operation_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            role,
            target,
            board,
            operation_timeout,
            links: watch::channel(None).0,
            announced: watch::channel(false).0,
            started: AtomicBool::new(false),
            stop: CancellationToken::new(),
            grace: Mutex::new(Duration::from_secs(1)),
            done: CancellationToken::new(),
        })
    }

    /// Connects once; keeps the connection from then on.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<(), ConnectError> {
        let link = self.link(1, self.target.open(self.role.as_str()).await?);
        let mut announced = self.announced();
        self.spawn(Some(link));
        // Whoever connected shall find the connection.
        let _ = announced.wait_for(|announced| *announced).await;
        Ok(())
    }

    /// Starts trying, if that has not begun.
    pub(super) fn start(self: &Arc<Self>) {
        if !self.started.load(Ordering::Relaxed) {
            self.spawn(None);
        }
    }

    fn spawn(self: &Arc<Self>, link: Option<Link>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).run(link).boxed());
        }
    }

    /// The connection of now, and each one after it.
    pub(super) fn links(&self) -> watch::Receiver<Option<Arc<Link>>> {
        self.links.subscribe()
    }

    /// Whether there is a connection, or was until a moment ago.
    pub(super) fn is_up(&self) -> bool {
        *self.announced.borrow()
    }

    pub(super) fn announced(&self) -> watch::Receiver<bool> {
        self.announced.subscribe()
    }

    /// Why the broker takes no publishes, while it takes none.
    pub(super) fn blocked(&self) -> Option<Arc<str>> {
        let link = self.links.borrow();
        link.as_ref()?.blocked.borrow().clone()
    }

    /// Ends for good.
    pub(super) async fn close(&self, grace: Duration) {
        *self.grace.lock() = grace;
        self.stop.cancel();
        if self.started.swap(true, Ordering::Relaxed) {
            self.done.cancelled().await;
        }
    }

    /// Ends for good, without waiting.
    pub(super) fn abandon(&self) {
        self.stop.cancel();
    }

    fn link(&self, generation: u64, opened: Opened) -> Link {
        let Opened {
            connection,
            wire,
            handle,
        } = opened;
        Link {
            connection,
            wire,
            generation,
            limit: self.operation_timeout,
            heartbeat: Duration::from_secs(self.target.heartbeat().into()),
            handle,
            closing: CancellationToken::new(),
            dead: CancellationToken::new(),
            blocked: watch::channel(None).0,
            sessions: TaskTracker::new(),
        }
    }

    async fn run(self: Arc<Self>, mut first: Option<Link>) {
        let mut generation = 0;
        let mut backoff = Backoff::new();
        let mut attempt = 0;
        while !self.stop.is_cancelled() {
            let opened = match first.take() {
                Some(link) => Ok(link),
                None => tokio::select! {
                    opened = self.target.reopen(self.role.as_str()) => {
                        opened.map(|opened| self.link(generation + 1, opened))
                    }
                    () = self.stop.cancelled() => break,
                },
            };
            match opened {
                Ok(link) => {
                    generation = link.generation;
                    attempt = 0;
                    let since = Instant::now();
                    let reason = self.keep(Arc::new(link)).await;
                    if since.elapsed() >= GOOD {
                        backoff = Backoff::new();
                    }
                    if self.stop.is_cancelled() {
                        break;
                    }
                    tracing::warn!(role = self.role.as_str(), %reason, "the connection to the broker is lost");
                }
                Err(error) => {
                    attempt += 1;
                    tracing::warn!(role = self.role.as_str(), attempt, %error, "cannot connect to the broker");
                    let reason = error.to_string();
                    self.board
                        .set(self.role, SlotState::Connecting { attempt, reason });
                    if matches!(error, ConnectError::Auth { .. }) {
                        self.pause(AUTH_RETRY).await;
                    }
                }
            }
            self.pause(backoff.next_delay()).await;
        }
        self.done.cancel();
    }

    /// Keeps a connection until it is gone, and says why it went.
    async fn keep(&self, link: Arc<Link>) -> String {
        let events = link.connection.events_listener();
        self.links.send_replace(Some(Arc::clone(&link)));
        self.announced.send_replace(true);
        self.board.set(
            self.role,
            SlotState::Up {
                generation: link.generation,
            },
        );
        let reason = tokio::select! {
            reason = link.watch(events, self.role, &self.board) => reason,
            () = self.stop.cancelled() => {
                let until = Instant::now() + *self.grace.lock();
                // They close their channels first.
                link.closing.cancel();
                link.sessions.close();
                let _ = tokio::time::timeout_at(until.into(), link.sessions.wait()).await;
                link.close(until.saturating_duration_since(Instant::now())).await;
                "closed".to_owned()
            }
        };
        self.links.send_replace(None);
        link.dead.cancel();
        link.handle.kill();
        // Calls that were lost are told before anybody can wait for the next connection, as telling hits all calls.
        link.sessions.close();
        let _ = tokio::time::timeout(SETTLE, link.sessions.wait()).await;
        if !self.stop.is_cancelled() {
            let reason = reason.clone();
            self.board
                .set(self.role, SlotState::Connecting { attempt: 0, reason });
        }
        self.announced.send_replace(false);
        reason
    }

    async fn pause(&self, delay: Duration) {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Waits for a connection that is alive; `None` when there will be none any more.
pub(super) async fn next_link(links: &mut watch::Receiver<Option<Arc<Link>>>) -> Option<Arc<Link>> {
    let link = links
        .wait_for(|link| link.as_ref().is_some_and(|link| !link.is_dead()))
        .await
        .ok()?;
    link.clone()
}
