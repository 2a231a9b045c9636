//! Lanes: what is published goes through one of seven, each with its own channel on the publishing connection, so that
//! a channel that the broker closes takes no neighbours with it.
//!
//! A lane is a bounded queue and one task. The task keeps many publishes in flight and awaits none of them by itself:
//! the library then writes them together, which is where the throughput comes from. While nothing waits for the task,
//! senders hand messages without confirms to the library themselves, in [rows](super::row) that the task only watches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::BasicProperties;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::errors;
use super::flight::{End, Flight};
use super::inbox::Inbox;
use super::queue::{Job, Outcome, Queue, State};
use super::row::{Handed, Row};
use super::supervisor::{Link, Slot, next_link};
use crate::error::Execution;
use crate::transport::backoff::Backoff;
use crate::transport::{Accepted, ReplySink, TransportError};

/// Messages that wait for the task. It is only this far behind when the broker reads slowly.
const MAX_QUEUED: usize = 16 * 1024;
/// Publishes and sends that wait for their confirm; more of them wait for their turn.
const MAX_UNCONFIRMED: usize = 2048;
/// Bodies of messages whose publishers went on and that are not written, in bytes, about; one more may be larger.
const MAX_UNWRITTEN: usize = 8 * 1024 * 1024;
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
        outcome: Outcome::Unconfirmed { messages: 1, turn },
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) kind: Kind,
    slot: Arc<Slot>,
    pub(super) limit: Duration,
    queue: Mutex<Queue>,
    queued: Notify,
    changed: watch::Sender<Option<TransportError>>,
    turns: Arc<Semaphore>,
    /// Those that wait until they can hand a message over themselves, in the order in which they came.
    line: tokio::sync::Mutex<()>,
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
        let wakes = match queue.hand_over(job) {
            Ok(is_first) => is_first,
            Err(_) if queue.jobs.len() >= MAX_QUEUED => {
                return Err(errors::blocked(
                    "it reads more slowly than messages are sent",
                    Execution::DidNotRun,
                ));
            }
            Err(job) => {
                queue.jobs.push_back(*job);
                true
            }
        };
        drop(queue);
        if wakes {
            self.queued.notify_one();
        }
        Ok(())
    }

    /// Whether a message that nobody is told about can probably be handed over at once.
    pub(super) fn is_open(&self) -> bool {
        self.turns.available_permits() > 0 && self.slot.blocked().is_none() && self.queue.lock().is_open()
    }

    /// Hands a message that nobody is told about to the library, if that can be done at once.
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
        turn.is_ok_and(|turn| self.hand_over(unconfirmed(exchange, key, message, turn)).is_ok())
    }

    fn hand_over(&self, job: Job) -> Result<(), Box<Job>> {
        let is_first = self.queue.lock().hand_over(job)?;
        if is_first {
            self.queued.notify_one();
        }
        Ok(())
    }

    /// Waits until a message that nobody is told about can be handed over, and does that.
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
                match self.hand_over(*job) {
                    Ok(()) => break,
                    Err(back) => job = back,
                }
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

    /// Takes a message back that has not been handed to the library.
    pub(super) fn forget(&self, id: &str) -> bool {
        let mut queue = self.queue.lock();
        let at = queue
            .jobs
            .iter()
            .position(|job| matches!(&job.outcome, Outcome::Request { id: queued } if queued == id));
        at.is_some_and(|at| queue.jobs.remove(at).is_some())
    }

    /// How many messages are neither settled nor given up.
    pub(super) fn unsettled(&self) -> usize {
        let queue = self.queue.lock();
        queue.jobs.len() + queue.in_flight
    }

    /// The next messages for the library. What is taken here is ahead of what senders could hand over themselves, until
    /// [`handed_over`](Self::handed_over) is called.
    pub(super) fn take(&self, room: usize) -> Vec<Job> {
        let mut queue = self.queue.lock();
        let many = room.min(queue.jobs.len());
        queue.in_flight += many;
        queue.is_overtaken = many > 0;
        queue.jobs.drain(..many).collect()
    }

    /// What was taken is with the library.
    pub(super) fn handed_over(&self) {
        self.queue.lock().is_overtaken = false;
    }

    /// What senders handed over themselves since this was asked last.
    pub(super) fn take_row(&self) -> Option<Handed> {
        self.queue.lock().row.as_mut()?.take()
    }

    /// From now on senders hand over themselves what they can, or no more; what they did is returned.
    pub(super) fn set_row(&self, row: Option<Row>) -> Option<Handed> {
        let mut queue = self.queue.lock();
        queue.state = State::Down;
        std::mem::replace(&mut queue.row, row)?.take()
    }

    /// As many of those taken are settled.
    pub(super) fn settled(&self, many: usize) {
        self.queue.lock().in_flight -= many;
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
                Outcome::Request { id } => {
                    if let Some(sink) = self.sink() {
                        sink.failed(&id, error.clone());
                    }
                }
                Outcome::Publish { done, .. } => {
                    let _ = done.send(Err(error.clone()));
                }
                Outcome::Unconfirmed { .. } => {}
                Outcome::Reply { .. } => tracing::warn!(%error, "a reply was lost"),
            }
        }
        also();
        drop(queue);
        self.changed.send_replace(Some(error.clone()));
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

    pub(super) async fn build(&self, link: &Arc<Link>) -> Result<Flight<'_>, TransportError> {
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
            lane: self,
            link: Arc::clone(link),
            channel,
            inbox,
        })
    }
}
