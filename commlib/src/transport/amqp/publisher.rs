//! Lanes: what is published goes through one of seven, each with its own channel on the publishing connection, so that
//! a channel that the broker closes takes no neighbours with it.
//!
//! Whoever sends writes the message into the [buffer of the connection](super::wire) himself; what is there is written
//! together, which is where the throughput comes from. What becomes of it is told by the task of the connection. Only
//! while there is no channel, or the broker takes nothing, messages wait in the lane's bounded queue, and the lane's task
//! sends them when that is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::BasicProperties;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::errors;
use super::feedback::Feedback;
use super::flight::{End, Flight};
use super::inbox::Inbox;
use super::ledger::Ledger;
use super::queue::{Job, Outcome, Queue, State};
use super::supervisor::{Link, Slot, next_link};
use super::wire::{Channel, Publisher};
use crate::error::Execution;
use crate::transport::backoff::Backoff;
use crate::transport::{Accepted, ReplySink, TransportError};

/// Messages that wait for the task. It is only this far behind when the broker reads slowly.
const MAX_QUEUED: usize = 16 * 1024;
/// Publishes and sends that wait for their confirm; more of them wait for their turn.
pub(super) const MAX_UNCONFIRMED: usize = 2048;
/// How often replies that nobody can be given are looked through.
const LOOK: Duration = Duration::from_millis(250);
/// After a channel was lost. Short, because messages of neighbours wait for the next one.
const REOPEN: Duration = Duration::from_millis(10);

/// What a lane carries.
#[derive(Debug)]
pub(super) enum Kind {
    /// Requests and their replies: Direct Reply-to wants both on one channel.
    Requests { inbox: Inbox, confirmed: bool },
    /// Messages to work queues that nobody answers.
    Oneway,
    /// Topic messages.
    Topics,
    /// Topic messages whose publishers want no confirm.
    UnconfirmedTopics,
    /// Messages of durable topics.
    Durable,
    /// Replies of servers. They are held while there is no way to send them.
    Replies,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) kind: Kind,
    pub(super) slot: Arc<Slot>,
    pub(super) limit: Duration,
    pub(super) queue: Mutex<Queue>,
    queued: Notify,
    /// Those who wait until there is room for a message.
    pub(super) room: Notify,
    changed: watch::Sender<Option<TransportError>>,
    pub(super) turns: Arc<Semaphore>,
    /// Those that wait until they can hand a message over themselves, in the order in which they came.
    pub(super) line: tokio::sync::Mutex<()>,
    started: AtomicBool,
    pub(super) closing: CancellationToken,
}

impl Lane {
    pub(super) fn new(kind: Kind, slot: Arc<Slot>, limit: Duration, closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            kind,
            slot,
            limit,
            queue: Mutex::new(Queue::new()),
            queued: Notify::new(),
            room: Notify::new(),
            changed: watch::channel(None).0,
            turns: Arc::new(Semaphore::new(MAX_UNCONFIRMED)),
            line: tokio::sync::Mutex::default(),
            started: AtomicBool::new(false),
            closing,
        })
    }

    pub(super) fn start(self: &Arc<Self>) {
        if !self.started.load(Ordering::Relaxed) && !self.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).run().boxed());
        }
    }

    /// Waits until messages can be sent.
    pub(super) async fn ready(&self) -> Result<(), TransportError> {
        let mut changed = self.changed.subscribe();
        let mut announced = self.slot.announced();
        let wait = async {
            loop {
                let connected = *announced.borrow_and_update();
                match self.queue.lock().state {
                    State::Up => return Ok(()),
                    State::Down if connected => {}
                    State::Down => return Err(errors::disconnected(Execution::DidNotRun)),
                    State::Blocked(_) if self.slot.blocked().is_none() => {}
                    State::Blocked(ref reason) => return Err(errors::blocked(reason, Execution::DidNotRun)),
                    State::Closed => return Err(TransportError::closed()),
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    _ = announced.changed() => {}
                }
                if let Some(error) = changed.borrow_and_update().clone() {
                    return Err(error);
                }
            }
        };
        tokio::time::timeout(self.limit, wait).await.unwrap_or_else(|_| {
            Err(errors::timeout(
                "opening a channel for publishing",
                self.limit,
                Execution::DidNotRun,
            ))
        })
    }

    /// Queues a message.
    pub(super) fn submit(&self, job: Job) -> Result<(), TransportError> {
        let mut queue = self.queue.lock();
        match (&queue.state, &job.outcome) {
            (State::Closed, _) => return Err(TransportError::closed()),
            (_, Outcome::Reply { .. }) => {}
            (State::Down, _) if self.slot.is_up() => {}
            (State::Down, _) => return Err(errors::disconnected(Execution::DidNotRun)),
            // The task learns of an alarm, and of its end, a moment later.
            (State::Up | State::Blocked(_), _) => {
                if let Some(reason) = self.slot.blocked() {
                    return Err(errors::blocked(&reason, Execution::DidNotRun));
                }
            }
        }
        match queue.send(job) {
            Ok(()) => {}
            Err(_) if queue.jobs.len() >= MAX_QUEUED => {
                return Err(errors::blocked(
                    "it reads more slowly than messages are sent",
                    Execution::DidNotRun,
                ));
            }
            Err(job) => {
                queue.jobs.push_back(*job);
                drop(queue);
                self.queued.notify_one();
            }
        }
        Ok(())
    }

    /// Whoever waits for room looks again.
    pub(super) fn has_moved(&self) {
        self.room.notify_waiters();
    }

    /// Sends a message at once, if nothing has to be waited for before that. The confirm comes to what is returned.
    pub(super) fn publish_now(
        self: &Arc<Self>,
        exchange: ShortString,
        key: ShortString,
        (properties, body): (BasicProperties, Bytes),
    ) -> Option<oneshot::Receiver<Result<Accepted, TransportError>>> {
        self.start();
        if !self.slot.is_up() {
            return None;
        }
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let (done, answer) = oneshot::channel();
        let job = Job {
            exchange,
            key,
            properties,
            body,
            outcome: Outcome::Publish { id: None, done, turn },
        };
        self.submit(job).ok().map(|()| answer)
    }

    /// Publishes and waits for the confirm.
    pub(super) async fn publish(
        self: &Arc<Self>,
        exchange: ShortString,
        key: ShortString,
        message: (BasicProperties, Bytes),
        id: Option<String>,
    ) -> Result<Accepted, TransportError> {
        self.start();
        // While there is a connection, the queue keeps the order of those that come before there is a channel.
        if !self.slot.is_up() {
            self.ready().await?;
        }
        let late = |key: &ShortString, execution| {
            errors::timeout(&format!("publishing to `{key}`"), self.limit, execution)
        };
        let turn = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let turn = Arc::clone(&self.turns).acquire_owned();
                match tokio::time::timeout(self.limit, turn).await {
                    Ok(Ok(turn)) => turn,
                    Ok(Err(_)) => return Err(TransportError::closed()),
                    Err(_) => return Err(late(&key, Execution::DidNotRun)),
                }
            }
        };
        let (done, answer) = oneshot::channel();
        let (properties, body) = message;
        self.submit(Job {
            exchange,
            key: key.clone(),
            properties,
            body,
            outcome: Outcome::Publish { id, done, turn },
        })?;
        match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(errors::disconnected(Execution::MayHaveRun)),
            Err(_) => Err(late(&key, Execution::MayHaveRun)),
        }
    }

    /// Takes a message back that has not been sent.
    pub(super) fn forget(&self, id: &str) -> bool {
        let mut queue = self.queue.lock();
        let at = queue
            .jobs
            .iter()
            .position(|job| matches!(&job.outcome, Outcome::Request { id: queued, .. } if queued == id));
        at.is_some_and(|at| queue.jobs.remove(at).is_some())
    }

    /// How many messages are neither settled nor given up.
    pub(super) fn unsettled(&self) -> usize {
        let queue = self.queue.lock();
        queue.jobs.len() + queue.ledger.as_ref().map_or(0, Ledger::unsettled)
    }

    /// Sends what waits, as far as that can be done. Returns whether the exchange of replies has to be declared for more.
    pub(super) fn send_waiting(&self) -> bool {
        let needs_exchange = self.queue.lock().send_waiting();
        self.has_moved();
        needs_exchange
    }

    /// The exchange of replies is there; or it can't be, and what waits for it is dropped.
    pub(super) fn declared(&self, declared: bool) {
        let mut queue = self.queue.lock();
        let dropped = if declared {
            VecDeque::new()
        } else {
            let jobs = std::mem::take(&mut queue.jobs);
            let (dropped, kept) = jobs.into_iter().partition(Job::needs_exchange);
            queue.jobs = kept;
            dropped
        };
        if let Some(ledger) = queue.ledger.as_mut().filter(|_| declared) {
            ledger.exchange_declared = true;
        }
        drop(queue);
        drop(dropped);
    }

    /// From now on messages are sent on this channel, once the lane is [up](Self::enter). What becomes of them is told as
    /// long as what is returned is kept.
    pub(super) fn begin(
        self: &Arc<Self>,
        channel: &Channel,
        reply_to: Option<ShortString>,
    ) -> Arc<dyn Publisher> {
        let mut queue = self.queue.lock();
        queue.session += 1;
        queue.ledger = Some(Ledger::new(channel, reply_to, self.is_confirmed()));
        let feedback: Arc<dyn Publisher> = Arc::new(Feedback::new(Arc::clone(self), queue.session));
        channel.set_publisher(Arc::downgrade(&feedback));
        feedback
    }

    /// Nothing more is sent on the channel of now.
    pub(super) fn pause(&self) {
        self.enter(State::Down);
    }

    /// Something may be sent that waits.
    pub(super) fn look(&self) {
        self.queued.notify_one();
    }

    /// Resolves when something was queued.
    pub(super) async fn queued(&self) {
        self.queued.notified().await;
    }

    /// Whether the broker says of each message that it has it.
    pub(super) fn is_confirmed(&self) -> bool {
        match self.kind {
            Kind::Requests { confirmed, .. } => confirmed,
            Kind::Oneway | Kind::Topics | Kind::Durable => true,
            Kind::UnconfirmedTopics | Kind::Replies => false,
        }
    }

    pub(super) fn is_replies(&self) -> bool {
        matches!(self.kind, Kind::Replies)
    }

    /// Moves to a state in which messages go out or wait.
    pub(super) fn enter(&self, state: State) {
        self.queue.lock().state = state;
        self.changed.send_replace(None);
        self.has_moved();
    }

    /// Moves to a state in which nothing goes out, and tells about the messages that wait; replies are kept unless the
    /// lane is closed. Whatever `also` tells is told before anything new is taken.
    pub(super) fn refuse(&self, state: State, error: &TransportError, also: impl FnOnce()) {
        let mut queue = self.queue.lock();
        let keep = self.is_replies() && !matches!(state, State::Closed);
        let jobs = if keep {
            VecDeque::new()
        } else {
            std::mem::take(&mut queue.jobs)
        };
        queue.state = state;
        for job in jobs {
            match job.outcome {
                Outcome::Request { id, .. } => {
                    if let Some(sink) = self.sink() {
                        sink.failed(&id, error.clone());
                    }
                }
                Outcome::Publish { done, .. } => {
                    let _ = done.send(Err(error.clone()));
                }
                Outcome::Unconfirmed(_) => {}
                Outcome::Reply { .. } => tracing::warn!(%error, "a reply was lost"),
            }
        }
        also();
        drop(queue);
        self.changed.send_replace(Some(error.clone()));
        self.has_moved();
    }

    /// Moves to a state in which what waits goes out on the next channel of the same connection. Requests are refused,
    /// as their callers are told that all is lost.
    pub(super) fn lose(&self, error: &TransportError, also: impl FnOnce()) {
        if matches!(self.kind, Kind::Requests { .. }) {
            self.refuse(State::Down, error, also);
        } else {
            self.enter(State::Down);
        }
    }

    pub(super) fn sink(&self) -> Option<&Arc<dyn ReplySink>> {
        match &self.kind {
            Kind::Requests { inbox, .. } => Some(&inbox.sink),
            Kind::Oneway | Kind::Topics | Kind::UnconfirmedTopics | Kind::Durable | Kind::Replies => None,
        }
    }

    /// Drops replies that waited too long for the broker to take them. Never resolves.
    pub(super) async fn expire(&self) -> std::convert::Infallible {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let now = Instant::now();
            let mut queue = self.queue.lock();
            let before = queue.jobs.len();
            queue
                .jobs
                .retain(|job| !matches!(job.outcome, Outcome::Reply { until, .. } if until <= now));
            let dropped = before - queue.jobs.len();
            drop(queue);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "replies were dropped because the broker took none for too long"
                );
            }
        }
    }

    async fn run(self: Arc<Self>) {
        let mut links = self.slot.links();
        let mut backoff = Backoff::new();
        loop {
            let built = tokio::select! {
                link = next_link(&mut links) => match link {
                    Some(link) => link,
                    None => break,
                },
                never = self.expire() => match never {},
                () = self.closing.cancelled() => break,
            };
            let delay = match self.build(&built).await {
                Ok(flight) => {
                    backoff = Backoff::new();
                    match flight.run().await {
                        End::Closed => break,
                        End::Lost => REOPEN,
                    }
                }
                Err(error) => {
                    tracing::warn!(kind = ?self.kind, %error, "cannot publish");
                    self.refuse(State::Down, &error, || ());
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.closing.cancelled() => break,
                never = self.expire() => match never {},
            }
        }
        self.refuse(State::Closed, &TransportError::closed(), || ());
    }

    pub(super) async fn build(self: &Arc<Self>, link: &Arc<Link>) -> Result<Flight, TransportError> {
        let channel = link.channel().await?;
        if self.is_confirmed() {
            let confirms = channel.confirm_select(lapin::options::ConfirmSelectOptions::default());
            errors::bounded("asking for confirms", self.limit, confirms).await?;
        }
        let inbox = match &self.kind {
            Kind::Requests { inbox, .. } => Some(inbox.open(&channel, self.limit).await?),
            Kind::Oneway | Kind::Topics | Kind::UnconfirmedTopics | Kind::Durable | Kind::Replies => None,
        };
        Ok(Flight {
            lane: Arc::clone(self),
            link: Arc::clone(link),
            channel,
            inbox,
        })
    }
}
