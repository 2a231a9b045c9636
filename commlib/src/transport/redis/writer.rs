//! The connection that everything goes out on: requests, replies, publishes and small commands.
//!
//! One task owns it. It takes whatever is queued, groups requests by work queue and replies by reply list into one
//! script call each, and writes all of it at once; answers are matched in order as they come, while more is written.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::connection::{Endpoint, IDLE, Link, LinkError, OpenError, SILENCE, WriteHalf};
use super::encode::encode;
use super::fault;
use super::inbox::Calls;
use super::jobs::{Ask, Call, Flight, Job, Load, Next};
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use crate::transport::backoff::Backoff;
use crate::transport::{ConnectionState, ReplySink, TransportError, TransportErrorKind};

/// Stop taking jobs while more than this is waiting to be written.
const HIGH_WATER: usize = 1024 * 1024;
/// Stop taking jobs while more than this many commands are not answered.
const MOST_IN_FLIGHT: usize = 4096;
const BATCH: usize = 512;
/// A reply that could not be written for this long has nobody who waits for it.
const REPLY_AGE: Duration = Duration::from_secs(30);

/// Queues jobs for the writer.
pub(super) struct Handle {
    jobs: mpsc::UnboundedSender<Job>,
    up: AtomicBool,
    closed: AtomicBool,
    /// Replies that were not written because their address is none that may be written to.
    pub(super) refused_replies: AtomicU64,
    pub(super) clock: Clock,
    /// Counts the connections that the writer lost.
    pub(super) losses: watch::Sender<u64>,
}

impl Handle {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let handle = Self {
            jobs,
            up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refused_replies: AtomicU64::new(0),
            clock: Clock::default(),
            losses: watch::Sender::new(0),
        };
        (Arc::new(handle), receiver)
    }

    /// Whether jobs are written now.
    pub(super) fn check(&self, what: &str) -> Result<(), TransportError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(TransportError::closed());
        }
        if self.up.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(fault::disconnected(what))
        }
    }

    /// The first connection is there.
    pub(super) fn opened(&self) {
        self.up.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Queues a job. After the end of the writer its outcome is told here.
    pub(super) fn queue(&self, job: Job) {
        if let Err(mpsc::error::SendError(job)) = self.jobs.send(job) {
            job.unsent();
        }
    }

    /// Queues a job and waits for its outcome.
    pub(super) async fn outcome<T>(
        &self,
        limit: Duration,
        what: &str,
        job: impl FnOnce(oneshot::Sender<Result<T, TransportError>>) -> Job,
    ) -> Result<T, TransportError> {
        let (done, outcome) = oneshot::channel();
        self.queue(job(done));
        match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TransportError::closed()),
            Err(_) => Err(TransportError::may_have_run(
                TransportErrorKind::Timeout,
                format!("cannot {what}: the broker did not answer within {limit:?}"),
            )),
        }
    }

    /// Runs a command and waits for its answer.
    pub(super) async fn ask(
        &self,
        limit: Duration,
        what: &'static str,
        words: &[&[u8]],
    ) -> Result<Value, TransportError> {
        let mut command = Vec::new();
        resp::command(&mut command, words);
        self.outcome(limit, what, |done| {
            Job::Ask(Ask {
                command,
                what,
                done: Some(done),
            })
        })
        .await
    }

    /// Calls a script without waiting; a refusal is logged.
    pub(super) fn call(&self, what: &'static str, script: Script, keys: Vec<String>, arguments: &[&str]) {
        self.queue(Job::Call(Call {
            script,
            keys,
            arguments: arguments
                .iter()
                .map(|text| text.as_bytes().to_vec().into())
                .collect(),
            what,
            done: None,
        }));
    }
}

/// The task.
pub(super) struct Writer {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) handle: Arc<Handle>,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    pub(super) state: watch::Sender<ConnectionState>,
    pub(super) stop: CancellationToken,
    pub(super) waiting: Waiting,
}

/// Who waits for replies.
#[derive(Clone)]
pub(super) struct Waiting {
    /// Set when the inbox is opened.
    pub(super) sink: Arc<OnceLock<Arc<dyn ReplySink>>>,
    /// In the dialect of commlib-py, what each call waits on.
    pub(super) calls: Option<Arc<Calls>>,
}

impl Waiting {
    /// Ends all calls: their request or their reply may be lost.
    pub(super) fn lost(&self, reason: &str) {
        if let Some(calls) = &self.calls {
            calls.forget_all();
        }
        if let Some(sink) = self.sink.get() {
            sink.lost(TransportError::may_have_run(
                TransportErrorKind::Disconnected,
                format!("the connection to the broker was lost while a reply was awaited ({reason})"),
            ));
        }
    }
}

/// A connection on which the scripts are loaded.
pub(super) struct Ready {
    link: Link,
    scripts: Scripts,
}

enum End {
    Stopped,
    Lost(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.into())
    }
}

/// Opens the writer's connection: loads the scripts, takes the time, looks at the memory policy.
pub(super) async fn open(endpoint: &Endpoint, clock: &Clock) -> Result<Ready, OpenError> {
    let mut link = endpoint.open("writer").await?;
    let mut commands = Vec::new();
    Scripts::load(&mut commands);
    resp::command(&mut commands, &[b"TIME"]);
    resp::command(&mut commands, &[b"CONFIG", b"GET", b"maxmemory"]);
    resp::command(&mut commands, &[b"CONFIG", b"GET", b"maxmemory-policy"]);
    let asked = Instant::now();
    let answers = link
        .ask(&commands, Scripts::COUNT + 3, SILENCE)
        .await
        .map_err(|error| OpenError::Unreachable(error.to_string()))?;
    if let Some(Value::Error(error)) = answers.first()
        && fault::is_loading(error)
    {
        return Err(OpenError::Unreachable("it is loading its data".into()));
    }
    let mut scripts = Scripts::new();
    scripts.loaded(&answers[..Scripts::COUNT]);
    if let [time, maxmemory, policy] = &answers[Scripts::COUNT..] {
        clock.set(time, asked.elapsed());
        warn_of_eviction(endpoint, maxmemory, policy);
    }
    Ok(Ready { link, scripts })
}

/// Requests that wait are data that an evicting broker throws away. Who may not ask is not told.
fn warn_of_eviction(endpoint: &Endpoint, maxmemory: &Value, policy: &Value) {
    let value = |answer: &Value| match answer {
        Value::Array(pair) => pair.get(1).and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    if let (Some(maxmemory), Some(policy)) = (value(maxmemory), value(policy))
        && maxmemory != "0"
        && policy != "noeviction"
    {
        tracing::warn!(
            broker = endpoint.address,
            policy,
            "this broker drops waiting requests when its memory is full; set maxmemory-policy to noeviction"
        );
    }
}

impl Writer {
    /// Runs until it is stopped, on one connection after the other.
    pub(super) async fn run(mut self, mut first: Option<Ready>) {
        let mut generation = 0;
        let wake = self
            .waiting
            .calls
            .as_ref()
            .map(|calls| calls.wake_list().to_owned());
        let mut kept: Vec<Job> = Vec::new();
        let mut reason = String::new();
        loop {
            let ready = match first.take() {
                Some(ready) => ready,
                None => match self.reconnect(&mut kept, mem::take(&mut reason)).await {
                    Some(ready) => ready,
                    None => break,
                },
            };
            generation += 1;
            self.handle.up.store(true, Ordering::Release);
            self.state.send_replace(ConnectionState::Connected { generation });
            let mut session = Session::new(&self, ready.scripts);
            session.take(&mut kept, wake.as_deref());
            let end = session
                .serve(ready.link, &mut self.jobs, &self.stop, wake.as_deref())
                .await;
            self.handle.up.store(false, Ordering::Release);
            let text = match &end {
                End::Stopped => "it was closed".to_owned(),
                End::Lost(error) => error.to_string(),
            };
            session.lost(&text, &mut kept);
            match end {
                End::Stopped => break,
                End::Lost(error) => {
                    tracing::warn!(broker = self.endpoint.address, %error, "the connection to the broker was lost");
                    // Told before there is a new connection, so that no call on that one is meant.
                    self.waiting.lost(&text);
                    self.handle.losses.send_modify(|losses| *losses += 1);
                    reason = text;
                }
            }
        }
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            job.unsent();
        }
        self.state.send_replace(ConnectionState::Closed);
    }

    async fn reconnect(&mut self, kept: &mut Vec<Job>, mut reason: String) -> Option<Ready> {
        let mut backoff = Backoff::new();
        let mut attempt = 0_u32;
        loop {
            self.state.send_replace(ConnectionState::Connecting {
                attempt,
                reason: mem::take(&mut reason),
            });
            let endpoint = Arc::clone(&self.endpoint);
            let handle = Arc::clone(&self.handle);
            let delay = if attempt == 0 {
                Duration::ZERO
            } else {
                backoff.next_delay()
            };
            let open = async move {
                tokio::time::sleep(delay).await;
                open(&endpoint, &handle.clock).await
            };
            tokio::pin!(open);
            let result = loop {
                tokio::select! {
                    result = &mut open => break result,
                    () = self.stop.cancelled() => return None,
                    job = self.jobs.recv() => kept.extend(job?.unsent()),
                }
            };
            match result {
                Ok(ready) => return Some(ready),
                Err(error) => {
                    attempt = attempt.saturating_add(1);
                    reason = error.to_string();
                    // Said once a minute at most from the first minute on, and at once when it starts.
                    if attempt == 1 || attempt.is_multiple_of(12) {
                        tracing::warn!(
                            broker = self.endpoint.address,
                            attempt,
                            reason,
                            "cannot connect to the broker; trying on"
                        );
                    }
                }
            }
        }
    }
}

/// What belongs to one connection.
struct Session {
    handle: Arc<Handle>,
    scripts: Scripts,
    out: Vec<u8>,
    /// How much of `out` was written.
    position: usize,
    /// Bytes written before the first of `out`.
    before: u64,
    flights: VecDeque<Flight>,
    /// Answers to the loading of scripts, until all are there.
    loaded: Vec<Value>,
    last_write: Instant,
}

impl Session {
    fn new(writer: &Writer, scripts: Scripts) -> Self {
        Self {
            handle: Arc::clone(&writer.handle),
            scripts,
            out: Vec::with_capacity(16 * 1024),
            position: 0,
            before: 0,
            flights: VecDeque::new(),
            loaded: Vec::new(),
            last_write: Instant::now(),
        }
    }

    /// Encodes jobs.
    fn take(&mut self, jobs: &mut Vec<Job>, wake: Option<&str>) {
        let now = Instant::now();
        jobs.retain(|job| !matches!(job, Job::Reply(reply) if now - reply.since > REPLY_AGE));
        let start = self.before + self.out.len() as u64;
        encode(jobs, &self.scripts, wake, &mut self.out, |load, before| {
            self.flights.push_back(Flight {
                start: start + before as u64,
                since: now,
                load,
            });
        });
    }

    async fn serve(
        &mut self,
        link: Link,
        jobs: &mut mpsc::UnboundedReceiver<Job>,
        stop: &CancellationToken,
        wake: Option<&str>,
    ) -> End {
        match self.drive(link, jobs, stop, wake).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn drive(
        &mut self,
        link: Link,
        jobs: &mut mpsc::UnboundedReceiver<Job>,
        stop: &CancellationToken,
        wake: Option<&str>,
    ) -> Result<std::convert::Infallible, End> {
        let Link {
            mut reader,
            mut writer,
            ..
        } = link;
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut unflushed = false;
        loop {
            let waiting = self.out.len() - self.position;
            tokio::select! {
                biased;
                written = write_or_flush(&mut writer, &self.out[self.position..]), if waiting > 0 || unflushed => {
                    unflushed = match written? {
                        Some(0) => return Err(End::Lost(LinkError("the broker closed the connection".into()))),
                        Some(count) => {
                            self.wrote(count);
                            true
                        }
                        None => false,
                    };
                }
                value = reader.next() => {
                    self.answer(value?)?;
                    while let Some(value) = reader.ready()? {
                        self.answer(value)?;
                    }
                }
                count = jobs.recv_many(&mut batch, BATCH),
                    if waiting < HIGH_WATER && self.flights.len() < MOST_IN_FLIGHT =>
                {
                    if count == 0 {
                        return Err(End::Stopped);
                    }
                    self.take(&mut batch, wake);
                }
                now = tick.tick() => {
                    match self.flights.front() {
                        Some(flight) => {
                            let heard = reader.heard.max(flight.since).max(self.last_write);
                            if now.saturating_duration_since(heard) > SILENCE {
                                return Err(End::Lost(LinkError::silent()));
                            }
                        }
                        None if now.saturating_duration_since(self.last_write) >= IDLE => self.sign_of_life(now),
                        None => {}
                    }
                }
                () = stop.cancelled() => return Err(End::Stopped),
            }
        }
    }

    fn wrote(&mut self, count: usize) {
        self.position += count;
        self.last_write = Instant::now();
        if self.position == self.out.len() {
            self.before += self.position as u64;
            self.position = 0;
            self.out.clear();
            if self.out.capacity() > HIGH_WATER {
                self.out.shrink_to(16 * 1024);
            }
        }
    }

    fn flight(&mut self, load: Load, encode: impl FnOnce(&Scripts, &mut Vec<u8>)) {
        self.flights.push_back(Flight {
            start: self.before + self.out.len() as u64,
            since: Instant::now(),
            load,
        });
        encode(&self.scripts, &mut self.out);
    }

    fn sign_of_life(&mut self, now: Instant) {
        self.last_write = now;
        self.flight(Load::Time, |_, out| resp::command(out, &[b"TIME"]));
    }

    fn answer(&mut self, value: Value) -> Result<(), LinkError> {
        if matches!(value, Value::Push(..)) {
            return Ok(());
        }
        let Some(flight) = self.flights.pop_front() else {
            return Err(LinkError::unexpected());
        };
        match flight.load {
            Load::Time => self.handle.clock.set(&value, flight.since.elapsed()),
            Load::Script => {
                self.loaded.push(value);
                if self.loaded.len() == Scripts::COUNT {
                    self.scripts.loaded(&mem::take(&mut self.loaded));
                }
            }
            load => {
                if let Next::Again(load) = load.answered(value) {
                    self.again(load);
                }
            }
        }
        Ok(())
    }

    /// Writes what the broker did not do because its scripts were flushed, in full this time, and loads them anew.
    fn again(&mut self, load: Load) {
        self.scripts.forget();
        if !self
            .flights
            .iter()
            .any(|flight| matches!(flight.load, Load::Script))
        {
            let mut commands = Vec::new();
            Scripts::load(&mut commands);
            for _ in 0..Scripts::COUNT {
                self.flight(Load::Script, |_, _| {});
            }
            self.out.extend_from_slice(&commands);
        }
        let mut jobs = super::encode::jobs_of(load);
        self.take(&mut jobs, None);
    }

    /// The connection is gone.
    fn lost(&mut self, reason: &str, kept: &mut Vec<Job>) {
        let written = self.before + self.position as u64;
        for flight in mem::take(&mut self.flights) {
            kept.extend(flight.load.lost(reason, flight.start < written));
        }
    }
}

/// Writes some of the bytes, or flushes if there are none. Cancellation safe.
async fn write_or_flush(writer: &mut WriteHalf, bytes: &[u8]) -> io::Result<Option<usize>> {
    if bytes.is_empty() {
        writer.flush().await?;
        return Ok(None);
    }
    writer.write(bytes).await.map(Some)
}
