//! Taking requests from work queues.
//!
//! One blocking connection and one task per consumer. A pop is written only while permits are held for all that it can
//! bring. The replies that are ready by then go out in the same write; all others on the writer's connection, so that
//! none waits for a pop to return.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::ServerError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Life;
use super::connection::{Endpoint, Link, LinkError, SILENCE};
use super::delivery::Delivered;
use super::encode::{Groups, encode_replies};
use super::fault;
use super::handle::Handle;
use super::inbox::BLOCK;
use super::jobs::{self, Flight, Job, Load, Tell};
use super::outbox::{Outbox, Replies, merge};
use super::pop::{self, Traffic};
use super::presence::{Presence, regular};
use super::resp::{self, Value};
use super::scripts::Scripts;
use crate::address::Address;
use crate::transport::backoff::Backoff;
use crate::transport::{ConsumeSpec, Consumer, Delivery, TransportError};

/// Requests taken at once, from the first pop on and at most. What one server takes the others can't.
const BATCH: (usize, usize) = (64, 256);
/// How often the handlers of a batch get their turn before their replies are left to the writer.
const TURNS: usize = 2;
/// A write buffer is kept up to this size.
const LARGEST_KEPT: usize = 64 * 1024;
/// How long a work queue is left alone whose key is of another type.
const WRONG_TYPE_PAUSE: Duration = Duration::from_secs(5);

/// The task.
pub(super) struct ConsumerTask {
    endpoint: Arc<Endpoint>,
    handle: Arc<Handle>,
    spec: ConsumeSpec,
    presence: Presence,
    stop: CancellationToken,
    /// For the responders, whose replies still go out when this consumer is gone.
    life: Weak<DropGuard>,
    /// Per address: requests that were there before this consumer, which may be stale.
    backlog: Vec<i64>,
    /// Per address: when to look at it again.
    paused: Vec<Option<Instant>>,
    /// The address that the next pop looks at first.
    turn: usize,
    /// How many requests the next pop takes at most.
    batch: usize,
    traffic: Traffic,
    outbox: Arc<Outbox>,
    /// Kept for the next write.
    out: Vec<u8>,
    /// When to look whether the broker is silent.
    watch: Interval,
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

/// A connection to take requests from.
pub(super) struct Ready {
    link: Link,
    scripts: Scripts,
}

impl ConsumerTask {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        handle: Arc<Handle>,
        spec: ConsumeSpec,
        member: String,
        stop: CancellationToken,
        life: Weak<DropGuard>,
    ) -> Self {
        let count = spec.addresses.len();
        Self {
            endpoint,
            presence: Presence::new(Arc::clone(&handle), &spec.addresses, member),
            spec,
            stop,
            life,
            backlog: vec![0; count],
            paused: vec![None; count],
            turn: 0,
            batch: BATCH.0,
            traffic: Traffic::default(),
            outbox: Arc::new(Outbox::new(Arc::clone(&handle))),
            out: Vec::new(),
            watch: regular(Duration::from_millis(500)),
            handle,
        }
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Opens the connection and makes sure that the addresses may be read.
    pub(super) async fn open(&mut self) -> Result<Ready, OpenFailure> {
        let mut link = self
            .endpoint
            .open("consumer")
            .await
            .map_err(|error| OpenFailure::Lost(error.to_string()))?;
        let lost = |error: LinkError| OpenFailure::Lost(error.to_string());
        let scripts = Scripts::open(&mut link).await.map_err(lost)?;
        let mut commands = Vec::new();
        for address in &self.spec.addresses {
            resp::command(&mut commands, &[b"LLEN", address.as_str().as_bytes()]);
        }
        let lengths = link
            .ask(&commands, self.spec.addresses.len(), SILENCE)
            .await
            .map_err(lost)?;
        for (index, length) in lengths.iter().enumerate() {
            match length {
                Value::Error(error) if fault::is_forbidden(error) => {
                    let what = format!("take requests from `{}`", self.spec.addresses[index]);
                    return Err(OpenFailure::Refused(fault::refused(&what, error)));
                }
                length => self.backlog[index] = length.as_int().unwrap_or(0),
            }
        }
        Ok(Ready { link, scripts })
    }

    /// Runs until it is stopped, on one connection after the other.
    pub(super) async fn run(mut self, mut next: Option<Ready>, ended: watch::Sender<bool>) {
        let stop = self.stop.clone();
        loop {
            let ready = match next.take() {
                Some(ready) => ready,
                None => tokio::select! {
                    ready = self.reopen() => ready,
                    () = stop.cancelled() => break,
                },
            };
            match self.serve(ready).await {
                End::Stopped => break,
                End::Lost(error) => {
                    tracing::warn!(
                        service = self.spec.service,
                        %error,
                        "a server lost its connection to the broker; it will be back"
                    );
                }
            }
        }
        self.presence.leave().await;
        ended.send_replace(true);
    }

    async fn reopen(&mut self) -> Ready {
        let mut backoff = Backoff::new();
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            match self.open().await {
                Ok(ready) => {
                    self.presence.announce();
                    return ready;
                }
                Err(error) => tracing::debug!(service = self.spec.service, ?error, "a server cannot connect"),
            }
        }
    }

    async fn serve(&mut self, ready: Ready) -> End {
        match self.drive(ready).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn drive(&mut self, ready: Ready) -> Result<std::convert::Infallible, End> {
        let Ready {
            mut link,
            mut scripts,
        } = ready;
        let mut flights = VecDeque::new();
        let end = loop {
            if let Err(end) = self.round(&mut link, &mut scripts, &mut flights).await {
                break end;
            }
        };
        // A reply that comes twice finds its call answered.
        let unanswered = flights.into_iter().flat_map(|flight| flight.load.lost("", true));
        let unwritten = self.outbox.close().into_iter().map(Job::Replies);
        for job in unanswered.chain(unwritten) {
            self.handle.queue(job);
        }
        Err(end)
    }

    /// Writes the replies that are there and a pop, and hands out what it brings.
    async fn round(
        &mut self,
        link: &mut Link,
        scripts: &mut Scripts,
        flights: &mut VecDeque<Flight>,
    ) -> Result<(), End> {
        let mut replies = Groups::new(|replies: &Replies| replies.list.as_str());
        let mut permits = None;
        for mut row in self.outbox.close() {
            // The broker gets the replies before the pop, so their permits are free by then.
            merge(&mut permits, row.permits.take());
            let bytes = row.words.len();
            replies.add(row, bytes);
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let now = Instant::now();
        encode_replies(replies, &mut out, |load, _, answers| {
            flights.push_back(Flight::new(load, 0, now, answers));
        });
        let Some(mut permits) = self.permits(permits).await? else {
            self.out = out;
            return Ok(());
        };
        let order = self.order();
        let addresses: Vec<Address> = order
            .iter()
            .map(|index| self.spec.addresses[*index].clone())
            .collect();
        let keys: Vec<&str> = addresses.iter().map(Address::as_str).collect();
        let answers = if keys.is_empty() {
            drop(permits.split(permits.num_permits()));
            0
        } else {
            pop::encode(
                &keys,
                permits.num_permits(),
                self.traffic.is_mixed(),
                link.modern,
                scripts,
                &mut out,
            )
        };
        match tokio::time::timeout(SILENCE, link.write(&out)).await {
            Ok(result) => result?,
            Err(_) => return Err(LinkError::silent().into()),
        }
        out.shrink_to(LARGEST_KEPT);
        self.out = out;
        let answers = self.answers(link, flights, answers).await?;
        if keys.is_empty() {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => self.presence.announce(),
            }
            return Ok(());
        }
        let popped = pop::decode(answers, &keys, link.modern).ok_or_else(LinkError::unexpected)?;
        if popped.nothing {
            self.backlog_is_gone(&order);
        }
        self.batch = next_batch(self.batch, popped.items.len());
        self.traffic
            .see(popped.items.iter().map(|(place, _)| order[*place]));
        let batch = self.outbox.open(popped.items.len());
        for (place, item) in popped.items {
            match permits.split(1) {
                Some(permit) => self.deliver(order[place], item, permit, batch),
                None => self.outbox.finished(batch),
            }
        }
        drop(permits);
        for _ in 0..TURNS {
            if self.outbox.left() == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        match popped.error {
            Some(error) if fault::is_unknown_script(&error) => scripts.forget(),
            Some(error) => {
                // The replies do not wait for what comes now.
                for reply in self.outbox.close() {
                    self.handle.queue(Job::Replies(reply));
                }
                self.refused(&error, link).await?;
            }
            None => {}
        }
        Ok(())
    }

    /// Adds permits until there are enough for a pop, at least one. Nothing, if something else had to be done first.
    async fn permits(
        &mut self,
        held: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<OwnedSemaphorePermit>, End> {
        let mut permits = match held {
            None => {
                // No reply is waiting either: each comes with a permit.
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(End::Stopped),
                    permit = Arc::clone(&self.spec.permits).acquire_owned() => permit.map_err(|_| End::Stopped)?,
                    _ = self.presence.due.tick() => {
                        self.presence.announce();
                        return Ok(None);
                    }
                }
            }
            Some(_) if self.stop.is_cancelled() => return Err(End::Stopped),
            Some(permits) => {
                if self.presence.due.tick().now_or_never().is_some() {
                    self.presence.announce();
                }
                permits
            }
        };
        let more = self.spec.permits.available_permits();
        let more = u32::try_from(more.min(self.batch.saturating_sub(permits.num_permits()))).unwrap_or(0);
        if more > 0
            && let Ok(more) = Arc::clone(&self.spec.permits).try_acquire_many_owned(more)
        {
            permits.merge(more);
        }
        Ok(Some(permits))
    }

    /// The addresses to pop from, another one first each time.
    fn order(&mut self) -> Vec<usize> {
        let now = Instant::now();
        let count = self.spec.addresses.len();
        self.turn = (self.turn + 1) % count.max(1);
        (0..count)
            .map(|offset| (self.turn + offset) % count)
            .filter(|index| self.paused[*index].is_none_or(|until| until <= now))
            .collect()
    }

    /// Waits for the answers of a pop. A stop shortens the wait; what was popped nevertheless is still handled.
    async fn answers(
        &mut self,
        link: &mut Link,
        flights: &mut VecDeque<Flight>,
        count: usize,
    ) -> Result<Vec<Value>, End> {
        let asked = Instant::now();
        let mut answers = Vec::with_capacity(count);
        let mut unblock = None;
        while answers.len() < count || !flights.is_empty() {
            tokio::select! {
                biased;
                value = link.reader.next() => {
                    let value = value?;
                    match flights.front_mut() {
                        None => answers.push(value),
                        Some(flight) => if let Some(answer) = flight.hears(value)
                            && let Some(Load::Replies(groups)) = flights.pop_front().map(|flight| flight.load)
                        {
                            jobs::replied(&groups, &answer);
                        }
                    }
                }
                () = self.stop.cancelled(), if unblock.is_none() => unblock = Some(interval(Duration::from_millis(50))),
                () = again(&mut unblock) => self.unblock(link.client_id),
                _ = self.presence.due.tick(), if unblock.is_none() => self.presence.announce(),
                _ = self.watch.tick() => if asked.elapsed() > BLOCK + SILENCE {
                    return Err(LinkError::silent().into());
                }
            }
        }
        Ok(answers)
    }

    /// Ends the blocking pop. Where the user may not do that, the pop ends by itself soon.
    fn unblock(&self, client: i64) {
        let mut command = Vec::new();
        resp::command(
            &mut command,
            &[b"CLIENT", b"UNBLOCK", client.to_string().as_bytes()],
        );
        self.handle.queue(Job::Ask(jobs::Ask {
            command,
            what: "stop a blocking pop",
            done: Some(Tell::Future(tokio::sync::oneshot::channel().0)),
        }));
    }

    fn backlog_is_gone(&mut self, order: &[usize]) {
        for index in order {
            self.backlog[*index] = 0;
        }
    }

    /// The broker refuses the pop: finds the keys that are to blame and leaves them alone for a while.
    async fn refused(&mut self, error: &ServerError, link: &mut Link) -> Result<(), End> {
        if error.code() == "UNBLOCKED" {
            return Ok(());
        }
        let mut blamed = false;
        if fault::is_wrong_type(error) {
            let mut commands = Vec::new();
            for address in &self.spec.addresses {
                resp::command(&mut commands, &[b"TYPE", address.as_str().as_bytes()]);
            }
            let types = link.ask(&commands, self.spec.addresses.len(), SILENCE).await?;
            for (index, kind) in types.iter().enumerate() {
                if let Some(kind) = kind.as_str().filter(|kind| !matches!(*kind, "list" | "none")) {
                    blamed = true;
                    self.paused[index] = Some(Instant::now() + WRONG_TYPE_PAUSE);
                    tracing::warn!(
                        address = %self.spec.addresses[index],
                        kind,
                        "the key of a work queue is no list; nobody can call it until the key is removed"
                    );
                }
            }
        }
        if !blamed {
            tracing::warn!(
                service = self.spec.service,
                error = fault::text(error),
                "the broker refuses to hand out requests; trying on"
            );
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if fault::is_read_only(error) {
                // The name of the broker may stand for another one by now.
                return Err(LinkError(fault::text(error)).into());
            }
        }
        Ok(())
    }

    fn deliver(&mut self, index: usize, item: Value, permit: OwnedSemaphorePermit, batch: u64) {
        let waited = self.backlog[index] > 0;
        self.backlog[index] -= i64::from(waited);
        let taken = Delivered {
            outbox: &self.outbox,
            batch,
            life: self.life.upgrade(),
            address: &self.spec.addresses[index],
            max_body: self.spec.max_body,
            waited,
        };
        if let Some((taken, responder)) = taken.read(item, permit) {
            self.spec.sink.deliver(Delivery {
                address: index,
                taken,
                redelivered: false,
                // The rest of the batch waits behind it.
                waited_for: false,
                responder: Box::new(responder),
            });
        } else {
            self.outbox.finished(batch);
        }
    }
}

/// How many requests to take at once after a pop of at most `batch` brought so many: more where more are waiting.
fn next_batch(batch: usize, brought: usize) -> usize {
    if brought >= batch {
        (2 * batch).min(BATCH.1)
    } else if brought < batch / 2 {
        (batch / 2).max(BATCH.0)
    } else {
        batch
    }
}

/// Why a consumer could not be opened.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Lost(String),
    Refused(TransportError),
}

/// The next try to end a blocking pop, once there is one to end.
async fn again(unblock: &mut Option<Interval>) {
    if let Some(unblock) = unblock {
        unblock.tick().await;
    } else {
        std::future::pending().await
    }
}

/// The handle that the layer above keeps.
pub(super) struct ConsumerHandle {
    pub(super) stop: CancellationToken,
    pub(super) ended: watch::Receiver<bool>,
    pub(super) _life: Life,
}

impl Consumer for ConsumerHandle {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        Box::pin(async move {
            // The task ends within the limit of a pop; one that is gone has dropped its end of the channel.
            let _ = ended.wait_for(|ended| *ended).await;
        })
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_more_at_once_only_while_more_is_waiting() {
        assert_eq!(next_batch(64, 63), 64);
        assert_eq!(next_batch(64, 64), 128);
        assert_eq!(next_batch(128, 128), 256);
        assert_eq!(next_batch(256, 256), 256);
        assert_eq!(next_batch(256, 128), 256);
        assert_eq!(next_batch(256, 127), 128);
        assert_eq!(next_batch(64, 0), 64);
    }
}
