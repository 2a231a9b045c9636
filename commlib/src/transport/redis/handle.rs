//! The way to the writer, which all other parts of a node share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Clock;
use super::fault;
use super::jobs::{Ask, Call, Job, Tell};
use super::push::{Origin, Row, Rows};
use super::resp::{self, Value};
use super::scripts::Script;
use super::writer::Waiting;
use crate::address::Address;
use crate::envelope::Encoded;
use crate::transport::{TransportError, TransportErrorKind};

/// Queues jobs for the writer.
pub(super) struct Handle {
    jobs: mpsc::UnboundedSender<Job>,
    /// What is to be pushed.
    pub(super) rows: Rows,
    /// What `rows` knows as well, to be looked at without its lock.
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
            rows: Rows::default(),
            up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refused_replies: AtomicU64::new(0),
            clock: Clock::default(),
            losses: watch::Sender::new(0),
        };
        (Arc::new(handle), receiver)
    }

    /// Says that there is a connection.
    pub(super) fn connected(&self) {
        self.rows.open();
        self.up.store(true, Ordering::Release);
    }

    /// Says that there is none. What was to be pushed and was not written never will be.
    pub(super) fn disconnected(&self) {
        self.up.store(false, Ordering::Release);
        self.rows.close().into_iter().for_each(Row::unsent);
    }

    /// Whether jobs are written now.
    pub(super) fn check(&self, what: impl fmt::Display) -> Result<(), TransportError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(TransportError::closed());
        }
        if self.up.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(fault::disconnected(&what.to_string()))
        }
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

    /// Queues an item for a work queue. Without a connection it is not sent: a call fails here, and a send is told so.
    pub(super) fn push(
        &self,
        address: Address,
        item: Encoded,
        time_to_live: i64,
        origin: Origin,
        waiting: &Waiting,
    ) -> Result<(), TransportError> {
        match self.rows.add(address, item, time_to_live, origin, waiting) {
            Ok(true) => self.queue(Job::Rows),
            Ok(false) => {}
            Err((address, origin)) => {
                let error = match self.check(format_args!("send to `{address}`")) {
                    Err(error) => error,
                    // There is one again, which this one came too early for.
                    Ok(()) => fault::disconnected(&format!("send to `{address}`")),
                };
                match origin {
                    Origin::Call(id) => {
                        if let Some(calls) = &waiting.calls {
                            calls.failed(&id, error.execution);
                        }
                        return Err(error);
                    }
                    Origin::Send(done) => drop(done.send(Err(error))),
                }
            }
        }
        Ok(())
    }

    /// Queues what somebody is to answer, and waits for the outcome.
    pub(super) async fn outcome<T>(
        &self,
        limit: Duration,
        what: impl fmt::Display,
        queue: impl FnOnce(oneshot::Sender<Result<T, TransportError>>),
    ) -> Result<T, TransportError> {
        let (done, outcome) = oneshot::channel();
        queue(done);
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
            self.queue(Job::Ask(Ask {
                command,
                what,
                done: Some(Tell::Future(done)),
            }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Execution;
    use crate::transport::told::{Told, replies};

    #[test]
    fn what_was_not_written_did_not_run_whatever_was_lost_with_it() {
        let (handle, mut jobs) = Handle::new();
        let (sink, mut told) = replies();
        let waiting = Waiting {
            sink: Arc::default(),
            calls: None,
        };
        assert!(waiting.sink.set(sink).is_ok());
        let push = |id: &str| {
            let (address, origin) = (Address::new("a").unwrap(), Origin::Call(id.to_owned()));
            handle
                .push(address, Encoded::default(), 0, origin, &waiting)
                .is_ok()
        };
        assert!(!push("early"), "there was no connection yet");
        handle.connected();
        assert!(push("laid down"));
        handle.disconnected();
        waiting.lost("it is gone");
        // Who was about to send when the connection went is not among those that were lost with it.
        assert!(!push("late"));
        assert!(matches!(
            told.try_recv(),
            Ok(Told::Failed(id, error)) if id == "laid down" && error.execution == Execution::DidNotRun
        ));
        assert!(matches!(
            told.try_recv(),
            Ok(Told::Lost(error)) if error.execution == Execution::MayHaveRun
        ));
        assert!(matches!(jobs.try_recv(), Ok(Job::Rows)));
        assert!(jobs.try_recv().is_err(), "nobody is woken for nothing");
    }
}
