//! One member of a group of a durable topic: takes entries of the stream and settles each.
//!
//! It has a connection of its own for reading, which blocks; all else goes through the writer. What it has taken stays
//! *pending* at the broker until it is acknowledged. While its handler runs, or while it rests before the next attempt,
//! the member says every few seconds that it still has it; what nobody spoke for is taken over by another member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::ServerError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{Endpoint, Link, LinkError, SILENCE};
use super::fault;
use super::jobs::{Call, Job, Tell};
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use super::stream::{self, Ack, Place};
use super::stream_held::Shared;
use super::stream_letters::letters_key;
use super::stream_watch::Watch;
use super::{Life, RedisTransport};
use crate::address::Pattern;
use crate::error::Execution;
use crate::transport::backoff::Backoff;
use crate::transport::{DurableSpec, Group, Removal, SubscribeSpec, Subscription, TopicSink, TransportError};

/// Entries taken at once.
const BATCH: usize = 64;
/// How long a read waits for entries. What rested long enough, and what the dead left behind, is looked at in between.
const BLOCK: Duration = Duration::from_millis(500);
const BLOCK_MS: &[u8] = b"500";
/// How often handlers are let go first when they may be done before the next read.
const TURNS: usize = 16;
/// How often it is looked for what others left behind.
const SEARCH: Duration = Duration::from_secs(1);
/// Where a new group begins: with what comes from now on, or with all that is there.
const NEW: &str = "$";
const ALL: &str = "0";

/// Joins a group; resolves when the broker knows it.
pub(super) async fn join(
    transport: &RedisTransport,
    spec: SubscribeSpec,
    group: Group,
    durable: &DurableSpec,
) -> Result<Box<dyn Subscription>, TransportError> {
    let what = format!("subscribe to `{}` as group `{}`", spec.pattern, group.name);
    let deadline = Instant::now() + transport.options.operation_timeout;
    let later = transport.begins_later();
    if !later {
        transport.connected(&what, deadline).await?;
    }
    let stop = transport.receiving.child_token();
    let guard = stop.clone().drop_guard();
    let member = Member {
        endpoint: Arc::clone(&transport.endpoint),
        shared: Arc::new(Shared {
            handle: Arc::clone(&transport.handle),
            place: if durable.requests {
                Place::of_servers(durable.topic.as_str(), &group.name)
            } else {
                Place::new(&durable.topic, &group.name, &spec.pattern)
            },
            consumer: format!("{}.{}", transport.options.node_id, transport.number()),
            letters: letters_key(&durable.dead_letters),
            most_letters: transport.options.limits.dead_letters,
            held: Mutex::default(),
            along: Mutex::default(),
        }),
        pattern: spec.pattern,
        group,
        max_body: spec.max_body,
        claim_after: transport.options.limits.claim_after,
        sink: spec.sink,
        stop: stop.clone(),
        cursor: "0-0".to_owned(),
        watch: Watch::new(),
        acks: Vec::new(),
    };
    let ready = if later {
        None
    } else {
        match tokio::time::timeout_at(deadline, member.open(begins(&member.shared.place))).await {
            Ok(Ok(ready)) => Some(ready),
            Ok(Err(OpenError::Refused(error))) => return Err(error),
            Ok(Err(OpenError::Lost(reason))) => {
                return Err(fault::lost(&what, &reason, Execution::DidNotRun));
            }
            Err(_) => return Err(transport.too_late(&what)),
        }
    };
    let (ended, watched) = watch::channel(false);
    tokio::spawn(member.run(ready, ended, transport.stop.clone()).boxed());
    guard.disarm();
    Ok(Box::new(Membership {
        stop,
        ended: watched,
        _life: Arc::clone(&transport.life),
    }))
}

/// Removes a group, unless one of its members did something lately: all do every few seconds.
pub(super) async fn remove(transport: &RedisTransport, place: &Place) -> Result<Removal, TransportError> {
    let what = "remove a group";
    let answer = transport.limited(what, |done| {
        Job::Call(Call {
            script: Script::Remove,
            keys: vec![place.stream.clone()],
            arguments: vec![
                Bytes::copy_from_slice(place.group.as_bytes()),
                transport
                    .options
                    .limits
                    .claim_after
                    .as_millis()
                    .to_string()
                    .into(),
            ],
            what,
            done: Some(Tell::Future(done)),
        })
    });
    Ok(match answer.await? {
        Value::Int(0) => Removal::NotThere,
        Value::Int(1) => Removal::Removed,
        _ => Removal::InUse,
    })
}

/// Where the group begins if its first member makes it. Requests are there for it even before.
fn begins(place: &Place) -> &'static str {
    if place.requests { ALL } else { NEW }
}

/// The handle that the layer above keeps.
struct Membership {
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
    _life: Life,
}

impl Subscription for Membership {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        Box::pin(async move {
            // The task ends within the limit of a read; one that is gone has dropped its end of the channel.
            let _ = ended.wait_for(|ended| *ended).await;
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) enum End {
    Stopped,
    Lost(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

enum OpenError {
    Lost(String),
    Refused(TransportError),
}

struct Ready {
    link: Link,
    scripts: Scripts,
}

pub(super) struct Member {
    endpoint: Arc<Endpoint>,
    pub(super) shared: Arc<Shared>,
    pub(super) pattern: Pattern,
    group: Group,
    pub(super) max_body: usize,
    /// What nobody spoke for so long was left behind.
    pub(super) claim_after: Duration,
    pub(super) sink: Arc<dyn TopicSink>,
    stop: CancellationToken,
    /// How far the search for what others left behind has come.
    pub(super) cursor: String,
    /// Whether trimming has overtaken the group.
    watch: Watch,
    /// Acknowledgements that went along with a read and were not answered.
    acks: Vec<Ack>,
}

impl Member {
    /// Opens a connection and makes the group, which begins at `start` if it is new.
    async fn open(&self, start: &str) -> Result<Ready, OpenError> {
        let lost = |error: LinkError| OpenError::Lost(error.to_string());
        let mut link = self
            .endpoint
            .open("member")
            .await
            .map_err(|error| OpenError::Lost(error.to_string()))?;
        let scripts = Scripts::open(&mut link).await.map_err(lost)?;
        let place = &self.shared.place;
        let mut command = Vec::new();
        resp::command(
            &mut command,
            &[
                b"XGROUP",
                b"CREATE",
                place.stream.as_bytes(),
                place.group.as_bytes(),
                start.as_bytes(),
                b"MKSTREAM",
            ],
        );
        let answers = link.ask(&command, 1, SILENCE).await.map_err(lost)?;
        match answers.first() {
            Some(Value::Error(error)) if error.code() != "BUSYGROUP" => {
                let what = format!(
                    "make the group `{}` of the stream `{}`",
                    place.group, place.stream
                );
                Err(OpenError::Refused(fault::refused(&what, error)))
            }
            _ => Ok(Ready { link, scripts }),
        }
    }

    /// Runs until it is stopped, on one connection after the other; then speaks for what is still handled until that is
    /// settled, or `closed`.
    async fn run(mut self, mut next: Option<Ready>, ended: watch::Sender<bool>, closed: CancellationToken) {
        let stop = self.stop.clone();
        let mut beat = interval(beat(self.claim_after));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A group that is gone went with the broker's data: all that is there now is new to it.
        let mut start = if next.is_some() {
            ALL
        } else {
            begins(&self.shared.place)
        };
        loop {
            let ready = match next.take() {
                Some(ready) => ready,
                None => tokio::select! {
                    ready = self.reopen(start) => ready,
                    () = stop.cancelled() => break,
                },
            };
            start = ALL;
            let end = self.drive(ready, &mut beat).await;
            // An acknowledgement that comes twice does no harm.
            for ack in self.acks.drain(..) {
                self.shared.handle.queue(Job::Ack(ack));
            }
            self.shared.close_to_writer();
            match end {
                Ok(never) => match never {},
                Err(End::Stopped) => break,
                Err(End::Lost(error)) => {
                    tracing::warn!(group = self.shared.place.group, %error, "a member of a group lost its connection to the broker; it will be back");
                }
            }
        }
        let shared = Arc::clone(&self.shared);
        // The sink may have messages that nobody will ask for: with it they go back.
        drop(self);
        shared.release_resting();
        ended.send_replace(true);
        while !shared.held.lock().is_empty() {
            tokio::select! {
                _ = beat.tick() => shared.speak(),
                () = closed.cancelled() => return,
            }
        }
        shared.tidy();
    }

    async fn reopen(&self, start: &str) -> Ready {
        let mut backoff = Backoff::new();
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            match self.open(start).await {
                Ok(ready) => return ready,
                Err(OpenError::Lost(reason)) => {
                    tracing::debug!(group = self.shared.place.group, reason, "a member cannot connect");
                }
                Err(OpenError::Refused(error)) => {
                    tracing::warn!(group = self.shared.place.group, %error, "a member cannot join its group; trying on");
                }
            }
        }
    }

    async fn drive(&mut self, ready: Ready, beat: &mut Interval) -> Result<std::convert::Infallible, End> {
        let Ready {
            mut link,
            mut scripts,
        } = ready;
        let mut search = Instant::now();
        self.watch = Watch::new();
        self.shared.tidy();
        loop {
            if self.group.permits.available_permits() == 0 {
                self.shared.close_to_writer();
            }
            let permits = loop {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(End::Stopped),
                    _ = beat.tick() => self.shared.speak(),
                    permits = permits(&self.group) => break permits,
                }
            };
            // A closed semaphore is a handler that is going away.
            let Some(mut permits) = permits else {
                return Err(End::Stopped);
            };
            let now = Instant::now();
            let due = self.shared.due(now, permits.num_permits());
            if !due.is_empty() || search <= now {
                self.shared.close_to_writer();
            }
            if !due.is_empty() {
                self.take_again(&mut link, &mut scripts, &due, &mut permits, beat)
                    .await?;
            } else if search <= now {
                if self
                    .take_over(&mut link, &mut scripts, &mut permits, beat)
                    .await?
                {
                    search = now + SEARCH;
                }
            } else {
                self.read(&mut link, &mut scripts, permits, beat).await?;
            }
        }
    }

    /// Acknowledges what was handled by now and takes what is new, after having looked whether there was more that is
    /// gone.
    async fn read(
        &mut self,
        link: &mut Link,
        scripts: &mut Scripts,
        mut permits: OwnedSemaphorePermit,
        beat: &mut Interval,
    ) -> Result<(), End> {
        let place = &self.shared.place;
        let (mut command, count) = (Vec::new(), permits.num_permits().to_string());
        let free = self.group.permits.available_permits() + permits.num_permits();
        self.acks = self.shared.close();
        stream::write_acks(&self.acks, &mut command);
        let watched = self.watch.is_due(place);
        if watched {
            Watch::ask(&mut command, scripts, place);
        }
        let words: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            place.group.as_bytes(),
            self.shared.consumer.as_bytes(),
            b"COUNT",
            count.as_bytes(),
            b"BLOCK",
            BLOCK_MS,
            b"STREAMS",
            place.stream.as_bytes(),
            b">",
        ];
        resp::command(&mut command, &words);
        let mut answer = self.ask(link, &command, beat).await?;
        if !self.acks.is_empty() {
            stream::acknowledged(&self.acks, &answer);
            self.acks.clear();
            answer = self.answer(link, beat).await?;
        }
        if watched {
            if self.watch.answered(&answer, scripts, place) {
                self.sink.gap();
            }
            answer = self.answer(link, beat).await?;
        }
        match answer {
            Value::Nil => {}
            // The name of the stream and its entries.
            Value::Array(streams) => {
                if let Some(Value::Array(entries)) = streams.into_iter().nth(1) {
                    self.shared.open();
                    for entry in entries {
                        if let Value::Array(entry) = entry {
                            self.entry(1, entry, &mut permits);
                        }
                    }
                    drop(permits);
                    self.let_go_first(free).await;
                }
            }
            Value::Error(error) if ["NOGROUP", "UNBLOCKED"].contains(&error.code()) => {
                self.sink.gap();
                return Err(LinkError("the group is gone from the broker".into()).into());
            }
            Value::Error(error) => self.refused(&error).await,
            _ => return Err(LinkError::unexpected().into()),
        }
        Ok(())
    }

    /// Handlers that are quick finish before the next read, which then takes a full batch, and their acknowledgements
    /// along: until so many places are free again, or the others had their turns.
    async fn let_go_first(&self, free: usize) {
        for _ in 0..TURNS {
            if self.group.permits.available_permits() >= free {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The broker refuses to hand out entries.
    pub(super) async fn refused(&self, error: &ServerError) {
        tracing::warn!(
            group = self.shared.place.group,
            error = fault::text(error),
            "the broker refuses to hand out messages; trying on"
        );
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(SEARCH) => {}
        }
    }

    /// Writes a command and waits for its answer. A stop waits for it too: what a read brings is delivered.
    pub(super) async fn ask(
        &self,
        link: &mut Link,
        command: &[u8],
        beat: &mut Interval,
    ) -> Result<Value, End> {
        match tokio::time::timeout(SILENCE, link.write(command)).await {
            Ok(written) => written?,
            Err(_) => return Err(LinkError::silent().into()),
        }
        self.answer(link, beat).await
    }

    /// Waits for the next answer.
    async fn answer(&self, link: &mut Link, beat: &mut Interval) -> Result<Value, End> {
        let deadline = Instant::now() + BLOCK + SILENCE;
        loop {
            tokio::select! {
                biased;
                value = link.reader.next() => return Ok(value?),
                _ = beat.tick() => self.shared.speak(),
                () = sleep_until(deadline) => return Err(LinkError::silent().into()),
            }
        }
    }
}

/// How often a member speaks for what it has: every 3 s where it is missed after 10 s.
fn beat(claim_after: Duration) -> Duration {
    claim_after * 3 / 10
}

/// As many permits as there are, one at least.
async fn permits(group: &Group) -> Option<OwnedSemaphorePermit> {
    let mut permits = Arc::clone(&group.permits).acquire_owned().await.ok()?;
    let more = group.permits.available_permits().min(BATCH - 1);
    // Another member of this node may have been quicker; then one has to do.
    if let Ok(more) = Arc::clone(&group.permits).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
        permits.merge(more);
    }
    Some(permits)
}
