//! The connection that everything goes out on: requests, replies, publishes and small commands.
//!
//! One task owns it. It takes whatever is queued, groups requests by work queue and replies by reply list into one
//! script call each, and writes all of it at once; answers are matched in order as they come, while more is written.

use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::connection::{Endpoint, Link, OpenError, SILENCE};
use super::fault;
use super::handle::Handle;
use super::inbox::Calls;
use super::jobs::Job;
use super::resp::{self, Value};
use super::scripts::Scripts;
use super::session::{End, Session};
use crate::transport::backoff::Backoff;
use crate::transport::{ConnectionState, ReplySink, TransportError, TransportErrorKind};

/// The task.
pub(super) struct Writer {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) handle: Arc<Handle>,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    pub(super) state: watch::Sender<ConnectionState>,
    pub(super) stop: CancellationToken,
    pub(super) waiting: Waiting,
    /// Whether a broker that takes no writes was met: from then on only one that does will do.
    pub(super) wants_master: bool,
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
    /// A call was not delivered, or not certainly.
    pub(super) fn failed(&self, id: &str, error: TransportError) {
        if let Some(calls) = &self.calls {
            calls.failed(id, error.execution);
        }
        if let Some(sink) = self.sink.get() {
            sink.failed(id, error);
        }
    }

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

/// Opens the writer's connection: loads the scripts, takes the time, looks at the memory policy.
pub(super) async fn open(endpoint: &Endpoint, clock: &Clock, wants_master: bool) -> Result<Ready, OpenError> {
    let mut link = endpoint.open("writer").await?;
    if wants_master && link.replica {
        let reason = "it is a replica, which takes no writes (READONLY)".into();
        return Err(OpenError::Unreachable(reason));
    }
    let mut commands = Vec::new();
    Scripts::load(&mut commands);
    resp::command(&mut commands, &[b"TIME"]);
    resp::command(&mut commands, &[b"INFO", b"memory"]);
    let asked = Instant::now();
    let answers = link
        .ask(&commands, Scripts::COUNT + 2, SILENCE)
        .await
        .map_err(|error| OpenError::Unreachable(error.to_string()))?;
    if let Some(Value::Error(error)) = answers.first()
        && fault::is_loading(error)
    {
        return Err(OpenError::Unreachable("it is loading its data".into()));
    }
    let mut scripts = Scripts::new();
    scripts.loaded(&answers[..Scripts::COUNT]);
    if let [time, memory] = &answers[Scripts::COUNT..] {
        clock.set(time, asked.elapsed());
        warn_of_eviction(endpoint, memory);
    }
    Ok(Ready { link, scripts })
}

/// Requests that wait are data that an evicting broker throws away.
fn warn_of_eviction(endpoint: &Endpoint, memory: &Value) {
    let Some(memory) = memory.as_str() else {
        tracing::warn!(
            broker = endpoint.address,
            "cannot tell whether this broker drops waiting requests when its memory is full: this user may not ask \
             (INFO); see that its maxmemory-policy is noeviction"
        );
        return;
    };
    let value = |name: &str| memory.lines().find_map(|line| line.trim_end().strip_prefix(name));
    if let (Some(maxmemory), Some(policy)) = (value("maxmemory:"), value("maxmemory_policy:"))
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
            self.handle.connected();
            self.state.send_replace(ConnectionState::Connected { generation });
            let mut session = Session::new(Arc::clone(&self.handle), ready.scripts, ready.link.modern);
            while !kept.is_empty() {
                session.take(&mut kept, wake.as_deref());
            }
            let end = session
                .serve(ready.link, &mut self.jobs, &self.stop, wake.as_deref())
                .await;
            self.handle.disconnected();
            self.wants_master |= session.is_read_only();
            let text = match &end {
                End::Stopped => "it was closed".to_owned(),
                End::Lost(error) => error.to_string(),
            };
            session.lost(&text, &mut kept);
            // What still waits was not written, and its callers shall not be told that it may have been.
            while let Ok(job) = self.jobs.try_recv() {
                kept.extend(job.unsent());
            }
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
            let wants_master = self.wants_master;
            let delay = if attempt == 0 {
                Duration::ZERO
            } else {
                backoff.next_delay()
            };
            let open = async move {
                tokio::time::sleep(delay).await;
                open(&endpoint, &handle.clock, wants_master).await
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
