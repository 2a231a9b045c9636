//! Taking requests from work queues.
//!
//! One blocking connection and one task per consumer. A pop is written only while permits are held for all that it can
//! bring. Replies go out on the writer's connection, so that none waits for a pop to return.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::ServerError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Life;
use super::connection::{Endpoint, Link, LinkError, SILENCE};
use super::delivery::Popped;
use super::encode::presence_key;
use super::fault;
use super::handle::Handle;
use super::inbox::BLOCK;
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use crate::transport::backoff::Backoff;
use crate::transport::{ConsumeSpec, Consumer, Delivery, TransportError};

/// Requests taken at once.
const BATCH: usize = 64;
/// How often a consumer says that it is there.
const PRESENCE_EVERY: Duration = Duration::from_secs(3);
/// How long that holds, in ms.
const PRESENCE_MS: &str = "10000";
/// How long a work queue is left alone whose key is of another type.
const WRONG_TYPE_PAUSE: Duration = Duration::from_secs(5);

/// The task.
pub(super) struct ConsumerTask {
    endpoint: Arc<Endpoint>,
    handle: Arc<Handle>,
    spec: ConsumeSpec,
    /// Names this consumer in the presence of its addresses.
    member: String,
    stop: CancellationToken,
    /// For the responders, whose replies still go out when this consumer is gone.
    life: Weak<DropGuard>,
    /// Per address: requests that were there before this consumer, which may be stale.
    backlog: Vec<i64>,
    /// Per address: when to look at it again.
    paused: Vec<Option<Instant>>,
    /// The address that the next pop looks at first.
    turn: usize,
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
            handle,
            spec,
            member,
            stop,
            life,
            backlog: vec![0; count],
            paused: vec![None; count],
            turn: 0,
        }
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

    pub(super) fn presence_keys(&self) -> Vec<String> {
        self.spec
            .addresses
            .iter()
            .map(|address| presence_key(address.as_str()))
            .collect()
    }

    pub(super) fn presence_arguments(&self) -> Vec<Bytes> {
        vec![self.member.clone().into(), PRESENCE_MS.into()]
    }

    fn announce(&self) {
        self.handle.call(
            "announce a server",
            Script::Presence,
            self.presence_keys(),
            &[&self.member, PRESENCE_MS],
        );
    }

    /// Runs until it is stopped, on one connection after the other.
    pub(super) async fn run(mut self, ready: Ready, ended: watch::Sender<bool>) {
        let stop = self.stop.clone();
        let mut next = Some(ready);
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
        self.leave().await;
        ended.send_replace(true);
    }

    async fn reopen(&mut self) -> Ready {
        let mut backoff = Backoff::new();
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            match self.open().await {
                Ok(ready) => {
                    self.announce();
                    return ready;
                }
                Err(error) => tracing::debug!(service = self.spec.service, ?error, "a server cannot connect"),
            }
        }
    }

    /// Takes back the presence, so that callers learn at once that nobody serves.
    async fn leave(&self) {
        let mut removals = Vec::new();
        for key in self.presence_keys() {
            removals.push(async move {
                let words: [&[u8]; 3] = [b"ZREM", key.as_bytes(), self.member.as_bytes()];
                self.handle
                    .ask(Duration::from_secs(1), "take back a presence", &words)
                    .await
            });
        }
        for result in futures_util::future::join_all(removals).await {
            if let Err(error) = result {
                tracing::debug!(%error, "a presence runs out by itself");
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
        let stop = self.stop.clone();
        let mut presence = interval(PRESENCE_EVERY);
        presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        presence.tick().await;
        let mut pop = Vec::new();
        loop {
            let mut permits = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(End::Stopped),
                permits = permits(&self.spec) => permits.ok_or(End::Stopped)?,
                _ = presence.tick() => {
                    self.announce();
                    continue;
                }
            };
            let order = self.order();
            if order.is_empty() {
                drop(permits);
                tokio::select! {
                    () = stop.cancelled() => return Err(End::Stopped),
                    () = tokio::time::sleep(Duration::from_secs(1)) => self.announce(),
                }
                continue;
            }
            pop.clear();
            let answers = self.pop(&order, permits.len(), &scripts, &mut pop);
            match tokio::time::timeout(SILENCE, link.write(&pop)).await {
                Ok(result) => result?,
                Err(_) => return Err(LinkError::silent().into()),
            }
            let popped = self.popped(&mut link, answers, &mut presence).await?;
            self.hand_out(popped, &order, &mut permits, &mut scripts, &mut link)
                .await?;
        }
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

    /// Appends the commands of a pop; how many answers they have.
    fn pop(&self, order: &[usize], permits: usize, scripts: &Scripts, pop: &mut Vec<u8>) -> usize {
        let keys: Vec<&str> = order
            .iter()
            .map(|index| self.spec.addresses[*index].as_str())
            .collect();
        redis::cmd("BLPOP")
            .arg(&keys)
            .arg(BLOCK.as_secs())
            .write_packed_command(pop);
        // What else is there at once, as far as the permits reach.
        match (permits - 1, keys.as_slice()) {
            (0, _) => return 1,
            (more, [key]) => redis::cmd("LPOP").arg(*key).arg(more).write_packed_command(pop),
            (more, keys) => scripts
                .call(Script::Drain, keys)
                .arg(more)
                .write_packed_command(pop),
        }
        2
    }

    /// Waits for the answers of a pop. A stop shortens the wait; what was popped nevertheless is still handled.
    async fn popped(
        &self,
        link: &mut Link,
        count: usize,
        presence: &mut tokio::time::Interval,
    ) -> Result<Vec<Value>, End> {
        let deadline = Instant::now() + BLOCK + SILENCE;
        let mut answers = Vec::with_capacity(count);
        let mut unblock = interval(Duration::from_millis(50));
        while answers.len() < count {
            tokio::select! {
                biased;
                value = link.reader.next() => answers.push(value?),
                _ = unblock.tick(), if self.stop.is_cancelled() => self.unblock(link.client_id),
                () = self.stop.cancelled(), if !self.stop.is_cancelled() => {}
                _ = presence.tick(), if !self.stop.is_cancelled() => self.announce(),
                () = sleep_until(deadline) => return Err(LinkError::silent().into()),
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
        self.handle.queue(super::jobs::Job::Ask(super::jobs::Ask {
            command,
            what: "stop a blocking pop",
            done: Some(tokio::sync::oneshot::channel().0),
        }));
    }

    async fn hand_out(
        &mut self,
        popped: Vec<Value>,
        order: &[usize],
        permits: &mut Vec<OwnedSemaphorePermit>,
        scripts: &mut Scripts,
        link: &mut Link,
    ) -> Result<(), End> {
        let mut answers = popped.into_iter();
        match answers.next() {
            Some(Value::Array(pair)) => {
                let mut pair = pair.into_iter();
                if let (Some(list), Some(item)) = (pair.next(), pair.next()) {
                    let index = order
                        .iter()
                        .find(|index| list.as_str() == Some(self.spec.addresses[**index].as_str()));
                    if let (Some(index), Some(permit)) = (index, permits.pop()) {
                        self.deliver(*index, item, permit);
                    }
                }
            }
            Some(Value::Nil) => self.backlog_is_gone(order),
            Some(Value::Error(error)) => self.refused(&error, link).await?,
            _ => return Err(LinkError::unexpected().into()),
        }
        match answers.next() {
            Some(Value::Array(items)) if order.len() == 1 => {
                for item in items {
                    if let Some(permit) = permits.pop() {
                        self.deliver(order[0], item, permit);
                    }
                }
            }
            Some(Value::Array(items)) => {
                let mut items = items.into_iter();
                while let (Some(list), Some(item)) = (items.next(), items.next()) {
                    let index = list
                        .as_int()
                        .and_then(|index| usize::try_from(index).ok()?.checked_sub(1))
                        .and_then(|index| order.get(index));
                    if let (Some(index), Some(permit)) = (index, permits.pop()) {
                        self.deliver(*index, item, permit);
                    }
                }
            }
            Some(Value::Error(error)) if fault::is_unknown_script(&error) => scripts.forget(),
            _ => {}
        }
        Ok(())
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
        }
        Ok(())
    }

    fn deliver(&mut self, index: usize, item: Value, permit: OwnedSemaphorePermit) {
        let waited = self.backlog[index] > 0;
        self.backlog[index] -= i64::from(waited);
        let taken = Popped {
            handle: &self.handle,
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
                waited_for: false,
                responder: Box::new(responder),
            });
        }
    }
}

/// Why a consumer could not be opened.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Lost(String),
    Refused(TransportError),
}

/// As many permits as there are, one at least.
async fn permits(spec: &ConsumeSpec) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = Arc::clone(&spec.permits).acquire_owned().await.ok()?;
    let mut permits = vec![first];
    while permits.len() < BATCH
        && let Ok(permit) = Arc::clone(&spec.permits).try_acquire_owned()
    {
        permits.push(permit);
    }
    Some(permits)
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
