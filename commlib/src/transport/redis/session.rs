//! One connection of the writer, from its first byte to its last.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connection::{IDLE, Link, LinkError, SILENCE, WriteHalf};
use super::encode::Encoder;
use super::fault;
use super::handle::Handle;
use super::jobs::{Flight, Job, Load, Next};
use super::push::{Row, Rows};
use super::resp::{self, Value};
use super::scripts::Scripts;
use super::standing::Standings;
use crate::transport::TransportError;

/// Stop taking jobs while more than this is waiting to be written.
const HIGH_WATER: usize = 1024 * 1024;
/// Stop taking jobs while more than this many commands are not answered.
const MOST_IN_FLIGHT: usize = 4096;
/// Jobs taken at once.
const BATCH: usize = 512;
/// How often others are let go first when they are expected to have something for the same write.
const TURNS: usize = 16;
/// A reply that could not be written for this long has nobody who waits for it.
const REPLY_AGE: Duration = Duration::from_secs(30);

/// How a connection ended.
pub(super) enum End {
    /// From this side.
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

/// What belongs to one connection.
pub(super) struct Session {
    handle: Arc<Handle>,
    scripts: Scripts,
    standings: Standings,
    /// Whether the broker has the commands for pushes without a script.
    modern: bool,
    /// Jobs that were taken from the queue and are too many for one write.
    batch: Vec<Job>,
    /// Whether there were several at the last look.
    crowd: bool,
    /// How often others were let go first since jobs were taken.
    turns: usize,
    out: Vec<u8>,
    /// How much of `out` was written.
    position: usize,
    /// Bytes written before the first of `out`.
    before: u64,
    flights: VecDeque<Flight>,
    /// Answers to the loading of scripts, until all are there.
    loaded: Vec<Value>,
    last_write: Instant,
    /// When the flight that was the oldest one then was last written to its end.
    asked: Instant,
    /// Whether the broker said that it takes no writes. Then nothing more is sent, and the connection ends when all that
    /// was sent is answered.
    read_only: bool,
}

impl Session {
    pub(super) fn new(handle: Arc<Handle>, scripts: Scripts, modern: bool) -> Self {
        Self {
            handle,
            scripts,
            standings: Standings::default(),
            modern,
            batch: Vec::with_capacity(BATCH),
            crowd: false,
            turns: 0,
            out: Vec::with_capacity(16 * 1024),
            position: 0,
            before: 0,
            flights: VecDeque::new(),
            loaded: Vec::new(),
            last_write: Instant::now(),
            asked: Instant::now(),
            read_only: false,
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Encodes jobs.
    pub(super) fn take(&mut self, jobs: &mut Vec<Job>, wake: Option<&str>) {
        let now = Instant::now();
        jobs.retain(|job| !matches!(job, Job::Replies(replies) if now - replies.since > REPLY_AGE));
        let rows = self.handle.rows.take();
        let items = rows.iter().map(|row| row.origins.len()).sum::<usize>();
        let others = jobs.iter().filter(|job| !matches!(job, Job::Rows));
        self.crowd = others.count() + items > 1;
        self.turns = 0;
        let (before, flights) = (self.before, &mut self.flights);
        let mut encoder = Encoder {
            scripts: &self.scripts,
            wake,
            standings: self.modern.then_some(&mut self.standings),
            out: &mut self.out,
            now,
        };
        encoder.encode(jobs, rows, |load, length, answers| {
            flights.push_back(Flight::new(load, before + length as u64, now, answers));
        });
    }

    /// Takes pushes back.
    fn withdraw(&mut self, row: Row, error: TransportError) {
        let now = Instant::now();
        let (before, flights) = (self.before, &mut self.flights);
        let mut encoder = Encoder {
            scripts: &self.scripts,
            wake: None,
            standings: None,
            out: &mut self.out,
            now,
        };
        encoder.withdraw(row, error, |load, length, answers| {
            flights.push_back(Flight::new(load, before + length as u64, now, answers));
        });
    }

    pub(super) async fn serve(
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
        let mut unflushed = false;
        loop {
            let waiting = self.out.len() - self.position;
            let crowd = self.crowd || !self.flights.is_empty();
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
                    if self.read_only && self.flights.is_empty() {
                        let text = "the broker has become a replica, which takes no writes (READONLY)";
                        return Err(End::Lost(LinkError(text.into())));
                    }
                }
                more = fill(jobs, &mut self.batch, &self.handle.rows, crowd, &mut self.turns),
                    if waiting < HIGH_WATER && self.flights.len() < MOST_IN_FLIGHT && !self.read_only =>
                {
                    if !more {
                        return Err(End::Stopped);
                    }
                    let mut batch = mem::take(&mut self.batch);
                    self.take(&mut batch, wake);
                    self.batch = batch;
                }
                now = tick.tick() => {
                    match self.flights.front() {
                        Some(flight) => {
                            // While bytes wait for a slow network, it lives as long as it takes some. Once nothing waits,
                            // to write on proves nothing: a network that forgot the connection takes everything.
                            let taken = if waiting > 0 { self.last_write } else { self.asked };
                            let heard = reader.heard.max(flight.since).max(taken);
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
        let before = self.before + self.position as u64;
        self.position += count;
        self.last_write = Instant::now();
        if let Some(first) = self.flights.front()
            && (before + 1..=before + count as u64).contains(&first.end)
        {
            self.asked = self.last_write;
        }
        if self.position == self.out.len() {
            self.before += self.position as u64;
            self.position = 0;
            self.out.clear();
            if self.out.capacity() > HIGH_WATER {
                self.out.shrink_to(16 * 1024);
            }
        }
    }

    fn flight(&mut self, load: Load) {
        let end = self.before + self.out.len() as u64;
        self.flights.push_back(Flight::new(load, end, Instant::now(), 1));
    }

    fn sign_of_life(&mut self, now: Instant) {
        self.last_write = now;
        resp::command(&mut self.out, &[b"TIME"]);
        self.flight(Load::Time);
    }

    fn answer(&mut self, value: Value) -> Result<(), LinkError> {
        if matches!(value, Value::Push(..)) {
            return Ok(());
        }
        let Some(flight) = self.flights.front_mut() else {
            return Err(LinkError::unexpected());
        };
        let Some(value) = flight.hears(value) else {
            return Ok(());
        };
        let Some(flight) = self.flights.pop_front() else {
            return Err(LinkError::unexpected());
        };
        if let Value::Error(error) = &value {
            self.read_only |= fault::is_read_only(error);
        }
        match flight.load {
            Load::Time => self.handle.clock.set(&value, flight.since.elapsed()),
            Load::Script => {
                self.loaded.push(value);
                if self.loaded.len() == Scripts::COUNT {
                    self.scripts.loaded(&mem::take(&mut self.loaded));
                }
            }
            load => match load.answered(value, &mut self.standings) {
                Next::Nothing => {}
                Next::Again(load) => self.again(load),
                Next::Withdraw(row, error) => self.withdraw(row, error),
            },
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
            Scripts::load(&mut self.out);
            for _ in 0..Scripts::COUNT {
                self.flight(Load::Script);
            }
        }
        let load = match load {
            Load::Withdrawal(row, error) => return self.withdraw(row, error),
            load => load,
        };
        let mut jobs = super::encode::jobs_of(load);
        while !jobs.is_empty() {
            self.take(&mut jobs, None);
        }
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, reason: &str, kept: &mut Vec<Job>) {
        let written = self.before + self.position as u64;
        for flight in mem::take(&mut self.flights) {
            kept.extend(flight.load.lost(reason, flight.end <= written));
        }
        kept.extend(self.batch.drain(..).filter_map(Job::unsent));
    }
}

/// Waits until there are jobs; whether there can be any. In a crowd, others that are about to run now, such as the
/// callers of a batch of replies, get into the same write; who is alone does not wait for them. Cancellation safe.
async fn fill(
    jobs: &mut mpsc::UnboundedReceiver<Job>,
    batch: &mut Vec<Job>,
    rows: &Rows,
    crowd: bool,
    turns: &mut usize,
) -> bool {
    if batch.is_empty() && jobs.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    if crowd || batch.len() > 1 {
        while *turns == 0 || *turns < TURNS && rows.expects_more() {
            *turns += 1;
            tokio::task::yield_now().await;
        }
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
    }
    true
}

/// Writes some of the bytes, or flushes if there are none. Cancellation safe.
async fn write_or_flush(writer: &mut WriteHalf, bytes: &[u8]) -> io::Result<Option<usize>> {
    if bytes.is_empty() {
        writer.flush().await?;
        return Ok(None);
    }
    writer.write(bytes).await.map(Some)
}
