//! Where replies come to.
//!
//! Natively one list per node, taken from by one blocking connection; replies name their request. Servers that run
//! commlib-py do not, so each call to them has a list of its own, and one blocking connection waits on all of them: a
//! list that only this node knows wakes it when there are new calls.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::connection::{Endpoint, Link, LinkError, SILENCE};
use super::encode::REPLY_LIST_MS;
use super::handle::Handle;
use super::pop;
use super::resp::{self, Value};
use super::salvage;
use super::scripts::{Script, Scripts};
use super::writer::Waiting;
use crate::envelope::{Envelope, Malformed, native};
use crate::error::Execution;
use crate::limits::too_large;
use crate::transport::backoff::Backoff;
use crate::transport::{ReplySink, TransportError, TransportErrorKind};

/// How long one pop blocks. Redis notices a dead client late; what it pops for one meanwhile is lost.
pub(super) const BLOCK: Duration = Duration::from_secs(2);
pub(super) const BLOCK_SECONDS: &str = "2";
/// While there are more calls than one pop waits on, the next pop comes soon.
const SHORT_BLOCK_SECONDS: &str = "0.02";
/// Replies taken at once.
const BATCH: usize = 256;
/// Lists that one pop waits on.
const LISTS: usize = 1000;
/// What stands in a list whose call nobody waits for any more.
const MARK: &str = "gone";
const MARK_MS: &str = "60000";

/// The reply list of a node.
pub(super) fn reply_list(node_id: &str) -> String {
    format!("commlib:reply:{node_id}")
}

/// The list that wakes the inbox of a node.
pub(super) fn wake_list(node_id: &str) -> String {
    format!("commlib:wake:{node_id}")
}

/// The calls to commlib-py that wait for a reply, each with a list of its own.
pub(super) struct Calls {
    handle: Arc<Handle>,
    wake: String,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<String, Arc<str>>,
    by_list: HashMap<Arc<str>, String>,
}

impl Calls {
    pub(super) fn new(handle: Arc<Handle>, node_id: &str) -> Self {
        Self {
            handle,
            wake: wake_list(node_id),
            open: Mutex::default(),
        }
    }

    /// The list that tells the inbox of new calls.
    pub(super) fn wake_list(&self) -> &str {
        &self.wake
    }

    /// A new list for the reply to a call.
    pub(super) fn add(&self, id: String) -> Arc<str> {
        let list: Arc<str> = call_list().into();
        let mut open = self.open.lock();
        open.by_id.insert(id.clone(), Arc::clone(&list));
        open.by_list.insert(Arc::clone(&list), id);
        list
    }

    /// Nobody waits for this call any more. A reply that still comes is to die with its list.
    pub(super) fn forget(&self, id: &str) {
        if let Some(list) = self.remove(id) {
            bury(&self.handle, vec![list.to_string()]);
        }
    }

    /// This call was not delivered, or not certainly.
    pub(super) fn failed(&self, id: &str, execution: Execution) {
        if execution == Execution::DidNotRun {
            self.remove(id);
        } else {
            self.forget(id);
        }
    }

    /// Nobody waits for any call any more.
    pub(super) fn forget_all(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        for lists in open.by_list.into_keys().collect::<Vec<_>>().chunks(LISTS) {
            bury(&self.handle, lists.iter().map(|list| list.to_string()).collect());
        }
    }

    fn remove(&self, id: &str) -> Option<Arc<str>> {
        let mut open = self.open.lock();
        let list = open.by_id.remove(id)?;
        open.by_list.remove(&list);
        Some(list)
    }

    /// The call that a list is of, which ends with its reply.
    fn take(&self, list: &str) -> Option<String> {
        let mut open = self.open.lock();
        let id = open.by_list.remove(list)?;
        open.by_id.remove(&id);
        Some(id)
    }

    /// Some of the lists, and whether these are all.
    fn lists(&self, skip: usize) -> (Vec<Arc<str>>, bool) {
        let open = self.open.lock();
        let all = open.by_list.len();
        if all <= LISTS {
            return (open.by_list.keys().cloned().collect(), true);
        }
        let lists = open.by_list.keys().cycle().skip(skip % all).take(LISTS);
        (lists.cloned().collect(), false)
    }
}

/// A name for the reply list of one call, as commlib-py makes them.
pub(super) fn call_list() -> String {
    let mut list = String::with_capacity(36);
    // Writing to a string can't fail.
    let _ = write!(list, "rpc-{:032x}", rand::random::<u128>());
    list
}

/// Leaves lists behind that die by themselves.
pub(super) fn bury(handle: &Handle, lists: Vec<String>) {
    handle.call(
        "leave a reply list to die",
        Script::Tombstone,
        lists,
        &[MARK, MARK_MS],
    );
}

/// The task.
pub(super) struct Inbox {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) handle: Arc<Handle>,
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) node_id: String,
    /// Replies with larger bodies end their call with an error, in bytes.
    pub(super) max_body: usize,
    pub(super) waiting: Waiting,
    pub(super) stop: CancellationToken,
}

impl Inbox {
    /// Runs until it is stopped, on one connection after the other.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.run_for_ever() => {}
        }
    }

    async fn run_for_ever(&self) {
        let mut backoff = Backoff::new();
        let mut losses = self.handle.losses.subscribe();
        loop {
            let before = *losses.borrow_and_update();
            match self.endpoint.open("inbox").await {
                Ok(link) => {
                    backoff = Backoff::new();
                    let served = async {
                        match &self.waiting.calls {
                            None => self.serve(link).await,
                            Some(calls) => self.serve_calls(link, calls).await,
                        }
                    };
                    tokio::select! {
                        served = served => if let Err(error) = served
                            // Where the writer lost its connection too, it has told so, and by now there may be calls
                            // on a new one.
                            && *self.handle.losses.borrow() == before
                        {
                            tracing::warn!(broker = self.endpoint.address, %error, "the inbox lost its connection to the broker");
                            self.waiting.lost(&error.to_string());
                        },
                        // What broke that connection may have broken this one without a sign of it yet.
                        _ = losses.changed() => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(broker = self.endpoint.address, %error, "the inbox cannot connect");
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn serve(&self, mut link: Link) -> Result<(), LinkError> {
        let list = reply_list(&self.node_id);
        let keys = [list.as_str()];
        let scripts = Scripts::new();
        let mut out = Vec::new();
        let answers = pop::encode(&keys, BATCH, false, link.modern, &scripts, &mut out);
        loop {
            let answers = link.ask(&out, answers, BLOCK + SILENCE).await?;
            let popped = pop::decode(answers, &keys, link.modern).ok_or_else(LinkError::unexpected)?;
            self.handle.rows.expect(popped.items.len());
            for (_, item) in popped.items {
                self.reply(&item);
            }
            if let Some(error) = popped.error {
                return Err(refused(&error).await);
            }
            // The callers send their next requests first.
            tokio::task::yield_now().await;
        }
    }

    fn reply(&self, item: &Value) {
        let Some((id, message)) = self.read(item) else {
            return;
        };
        match id {
            Some(id) => self.tell(&id, message),
            None => tracing::debug!("a reply names no request; it was dropped"),
        }
    }

    /// Which request an item of a reply list answers, and what it says; nothing if it is no string.
    fn read<'a>(&self, item: &'a Value) -> Option<Answer<'a>> {
        match item {
            Value::Bulk(bytes) => Some(match native::decode_reply(bytes) {
                Ok((id, reply)) if reply.data.len() > self.max_body => {
                    let size = reply.data.len();
                    (id, Err(Unreadable::TooLarge { size }))
                }
                Ok((id, mut reply)) => {
                    self.handle.clock.read(&mut reply.meta);
                    (id, Ok(reply))
                }
                Err(mut error) => {
                    let id = error.correlation_id.take().map(Cow::Owned);
                    (id, Err(Unreadable::Malformed(error)))
                }
            }),
            Value::Skipped(skipped) => {
                let id = salvage::route(skipped).correlation_id.map(Cow::Owned);
                let size = skipped.size;
                Some((id, Err(Unreadable::TooLarge { size })))
            }
            _ => None,
        }
    }

    fn tell(&self, id: &str, message: Result<Envelope, Unreadable>) {
        match message {
            Ok(reply) => self.sink.reply(id, reply),
            Err(Unreadable::Malformed(error)) => self.sink.malformed(id, error),
            Err(Unreadable::TooLarge { size }) => self.sink.failed(
                id,
                TransportError {
                    kind: TransportErrorKind::TooLarge,
                    // There is an answer, so the work was done.
                    execution: Execution::Failed,
                    message: too_large("the body of the reply", size, self.max_body),
                },
            ),
        }
    }

    async fn serve_calls(&self, mut link: Link, calls: &Calls) -> Result<(), LinkError> {
        let mut scripts = Scripts::open(&mut link).await?;
        let wake = calls.wake_list();
        let mut skip = 0;
        let mut pop = Vec::new();
        loop {
            let (lists, all) = calls.lists(skip);
            skip = skip.wrapping_add(LISTS);
            pop.clear();
            let keys: Vec<&str> = lists.iter().map(AsRef::as_ref).collect();
            let block = if all { BLOCK_SECONDS } else { SHORT_BLOCK_SECONDS };
            resp::begin(&mut pop, 3 + keys.len());
            resp::word(&mut pop, b"BLPOP");
            resp::word(&mut pop, wake.as_bytes());
            for key in &keys {
                resp::word(&mut pop, key.as_bytes());
            }
            resp::word(&mut pop, block.as_bytes());
            resp::command(&mut pop, &[b"LPOP", wake.as_bytes(), b"1000"]);
            scripts.begin(&mut pop, Script::Drain, &keys, 1);
            resp::word(&mut pop, LISTS.to_string().as_bytes());
            let answers = link.ask(&pop, 3, BLOCK + SILENCE).await?;
            let [first, _, drained] = answers.as_slice() else {
                return Err(LinkError::unexpected());
            };
            if let Value::Error(error) = first {
                return Err(refused(error).await);
            }
            if let Value::Array(pair) = first
                && let [list, item] = pair.as_slice()
                && let Some(list) = list.as_str().filter(|list| *list != wake)
            {
                self.call_reply(calls, list, item);
            }
            match drained {
                Value::Array(items) => {
                    for pair in items.chunks_exact(2) {
                        let list = pair[0]
                            .as_int()
                            .and_then(|index| usize::try_from(index).ok()?.checked_sub(1))
                            .and_then(|index| lists.get(index));
                        if let Some(list) = list {
                            self.call_reply(calls, list, &pair[1]);
                        }
                    }
                }
                Value::Error(error) if super::fault::is_unknown_script(error) => scripts.forget(),
                Value::Error(error) => return Err(refused(error).await),
                _ => {}
            }
        }
    }

    /// An item of the list of one call.
    fn call_reply(&self, calls: &Calls, list: &str, item: &Value) {
        let Some(id) = calls.take(list) else {
            // The call was given up after this pop was written: the mark has to stay for a late reply.
            if item.as_str() == Some(MARK) {
                bury(&self.handle, vec![list.to_owned()]);
            }
            return;
        };
        match self.read(item) {
            Some((_, message)) => self.tell(&id, message),
            None => self.sink.malformed(&id, Malformed::new("it is no string")),
        }
    }
}

/// The request that a reply answers, if it says so, and what it says.
type Answer<'a> = (Option<Cow<'a, str>>, Result<Envelope, Unreadable>);

/// A reply that can't be handed up.
enum Unreadable {
    Malformed(Malformed),
    TooLarge { size: usize },
}

/// The broker refuses to let this node take its replies. Trying at once again would only burn its time.
async fn refused(error: &redis::ServerError) -> LinkError {
    let error = super::fault::text(error);
    tracing::warn!(error, "the broker refuses to hand out replies");
    tokio::time::sleep(Duration::from_secs(1)).await;
    LinkError(error)
}

const _: () = assert!(REPLY_LIST_MS as u64 > BLOCK.as_millis() as u64);
