//! What the writer is asked to write, and how the outcome of each gets back to whoever asked.

use std::sync::Arc;

use bytes::Bytes;
use redis::ServerError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::fault;
use super::inbox::Calls;
use super::resp::Value;
use super::scripts::Script;
use super::standing::Standings;
use super::stream::{self, Ack, Append};
use crate::address::Address;
use crate::error::Execution;
use crate::transport::{Accepted, Durability, ReplySink, TransportError, TransportErrorKind};

/// Something for the writer.
pub(super) enum Job {
    Push(Push),
    Publish {
        channel: Address,
        body: Bytes,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
    },
    Reply(Reply),
    GiveBack(GiveBack),
    Ask(Ask),
    Call(Call),
    Append(Append),
    Ack(Ack),
}

/// An item for a work queue.
pub(super) struct Push {
    pub(super) address: Address,
    pub(super) item: Vec<u8>,
    /// How long the list has to live at least, in ms.
    pub(super) time_to_live: i64,
    pub(super) origin: Origin,
}

/// Who learns how a push ended.
pub(super) enum Origin {
    /// The reply sink, and only of a failure: success is followed by a reply.
    Call {
        id: String,
        sink: Arc<dyn ReplySink>,
        /// In the dialect of commlib-py, where the reply list of the call is known.
        calls: Option<Arc<Calls>>,
    },
    Send(oneshot::Sender<Result<Accepted, TransportError>>),
}

impl Push {
    pub(super) fn accepted(self) {
        if let Origin::Send(done) = self.origin {
            let _ = done.send(Ok(Accepted::default()));
        }
    }

    pub(super) fn failed(self, error: TransportError) {
        match self.origin {
            Origin::Call { id, sink, calls } => {
                if let Some(calls) = calls {
                    calls.failed(&id, error.execution);
                }
                sink.failed(&id, error);
            }
            Origin::Send(done) => {
                let _ = done.send(Err(error));
            }
        }
    }
}

/// A reply on its way to its list.
pub(super) struct Reply {
    pub(super) list: String,
    pub(super) item: Vec<u8>,
    pub(super) since: Instant,
    /// Released when the broker has the reply.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// A request that goes back to the head of its list.
pub(super) struct GiveBack {
    pub(super) list: Address,
    pub(super) item: Bytes,
    pub(super) _permit: OwnedSemaphorePermit,
}

type Done = Option<Tell>;

/// Who learns how a command ended.
pub(super) enum Tell {
    Future(oneshot::Sender<Result<Value, TransportError>>),
    Then(Box<dyn FnOnce(Result<Value, TransportError>) + Send>),
}

impl Tell {
    fn tell(self, result: Result<Value, TransportError>) {
        match self {
            Self::Future(done) => {
                let _ = done.send(result);
            }
            Self::Then(then) => then(result),
        }
    }
}

/// One command, encoded, with one answer.
pub(super) struct Ask {
    pub(super) command: Vec<u8>,
    /// For errors: what the command is to do.
    pub(super) what: &'static str,
    pub(super) done: Done,
}

/// A call of a script.
pub(super) struct Call {
    pub(super) script: Script,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Bytes>,
    /// For errors: what the script is to do.
    pub(super) what: &'static str,
    pub(super) done: Done,
}

/// Written, or about to be, and not answered yet.
pub(super) struct Flight {
    /// Bytes written on this connection up to its last. The broker does nothing of half a command.
    pub(super) end: u64,
    pub(super) since: Instant,
    /// How many answers come to it. The last one tells, unless one before it was an error.
    answers: usize,
    error: Option<ServerError>,
    pub(super) load: Load,
}

impl Flight {
    pub(super) fn new(load: Load, end: u64, since: Instant, answers: usize) -> Self {
        Self {
            end,
            since,
            answers,
            error: None,
            load,
        }
    }

    /// Takes the next answer in; the one that tells, when it is there.
    pub(super) fn hears(&mut self, answer: Value) -> Option<Value> {
        self.answers = self.answers.saturating_sub(1);
        match answer {
            Value::Error(error) if self.answers > 0 => {
                self.error.get_or_insert(error);
                None
            }
            _ if self.answers > 0 => None,
            answer => Some(self.error.take().map_or(answer, Value::Error)),
        }
    }
}

pub(super) enum Load {
    /// To one queue, by a script that looks first.
    Pushes(Vec<Push>),
    /// To one queue, by plain commands that look at the same time.
    PlainPushes {
        pushes: Vec<Push>,
        /// Whether they looked for servers.
        looked: bool,
    },
    /// Pushes that are taken back, with the reason.
    Withdrawal(Vec<Push>, TransportError),
    /// By reply list.
    Replies(Vec<Vec<Reply>>),
    GiveBack(GiveBack),
    Publish {
        channel: Address,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
    },
    Ask {
        what: &'static str,
        done: Done,
    },
    Call(Call),
    Append(Append),
    /// Of one group.
    Acks(Vec<Ack>),
    /// `TIME`: a sign of life and the broker's clock.
    Time,
    /// The loading of a script.
    Script,
}

/// What the broker's answer to a flight leaves to do.
pub(super) enum Next {
    Nothing,
    /// The broker has forgotten its scripts; nothing of this happened.
    Again(Load),
    /// These should not have been pushed.
    Withdraw(Vec<Push>, TransportError),
}

impl Load {
    fn uses_script(&self) -> bool {
        matches!(
            self,
            Self::Pushes(_) | Self::Withdrawal(..) | Self::GiveBack(_) | Self::Call(_)
        )
    }

    /// Tells whoever asked what came of it.
    pub(super) fn answered(self, answer: Value, standings: &mut Standings) -> Next {
        if let Value::Error(error) = &answer
            && fault::is_unknown_script(error)
            && self.uses_script()
        {
            return Next::Again(self);
        }
        match self {
            Self::Pushes(pushes) => pushed(pushes, &answer, standings),
            Self::PlainPushes { pushes, looked } => {
                return plainly_pushed(pushes, looked, &answer, standings);
            }
            Self::Withdrawal(pushes, error) => withdrawn(pushes, &error, &answer),
            Self::Append(append) => append.answered(&answer),
            Self::Acks(acks) => stream::acknowledged(&acks, &answer),
            Self::Replies(groups) => replied(&groups, &answer),
            Self::GiveBack(given) => {
                if let Value::Error(error) = &answer {
                    tracing::warn!(
                        address = %given.list,
                        error = fault::text(error),
                        "the broker refused a request that was given back; it is lost"
                    );
                }
            }
            Self::Publish { channel, done } => {
                let _ = done.send(match answer {
                    Value::Int(receivers) => Ok(Accepted {
                        durability: Durability::None,
                        receivers: u64::try_from(receivers).ok(),
                        ..Accepted::default()
                    }),
                    Value::Error(error) => Err(fault::refused(&format!("publish to `{channel}`"), &error)),
                    _ => Err(unexpected("publish")),
                });
            }
            Self::Ask { what, done } | Self::Call(Call { what, done, .. }) => {
                let result = match answer {
                    Value::Error(error) => Err(fault::refused(what, &error)),
                    value => Ok(value),
                };
                match (done, result) {
                    (Some(done), result) => done.tell(result),
                    (None, Err(error)) => tracing::warn!(%error, "the broker refused a command"),
                    (None, Ok(_)) => {}
                }
            }
            Self::Time | Self::Script => {}
        }
        Next::Nothing
    }

    /// The connection is gone. What may be written again on the next one comes back.
    pub(super) fn lost(self, reason: &str, written: bool) -> Vec<Job> {
        let execution = if written {
            Execution::MayHaveRun
        } else {
            Execution::DidNotRun
        };
        match self {
            Self::Pushes(pushes) | Self::PlainPushes { pushes, .. } => {
                for push in pushes {
                    let error = fault::lost(&format!("send to `{}`", push.address), reason, execution);
                    push.failed(error);
                }
            }
            Self::Publish { channel, done } => {
                let error = fault::lost(&format!("publish to `{channel}`"), reason, execution);
                let _ = done.send(Err(error));
            }
            // A reply that comes twice finds its call answered. A request that comes twice would run twice.
            Self::Replies(groups) => return groups.into_iter().flatten().map(Job::Reply).collect(),
            // They were pushed before.
            Self::Withdrawal(pushes, _) => {
                for push in pushes {
                    let what = format!("send to `{}`", push.address);
                    push.failed(fault::lost(&what, reason, Execution::MayHaveRun));
                }
            }
            Self::GiveBack(given) if !written => return vec![Job::GiveBack(given)],
            Self::GiveBack(given) => {
                tracing::warn!(address = %given.list, "a request may be lost: the connection broke while it was given back");
            }
            Self::Append(append) => append.lost(reason, execution),
            Self::Acks(acks) => return acks.into_iter().map(Job::Ack).collect(),
            // Twice does no harm, and never would leave a list, or a message that is given up, for ever.
            Self::Call(call) if call.script.is_repeatable() => return vec![Job::Call(call)],
            Self::Ask { what, done } | Self::Call(Call { what, done, .. }) => {
                if let Some(done) = done {
                    done.tell(Err(fault::lost(what, reason, execution)));
                }
            }
            Self::Time | Self::Script => {}
        }
        Vec::new()
    }
}

pub(super) fn unexpected(what: &str) -> TransportError {
    TransportError::may_have_run(
        TransportErrorKind::Protocol,
        format!("cannot tell whether the {what} worked: the broker answered what was not asked for"),
    )
}

fn pushed(pushes: Vec<Push>, answer: &Value, standings: &mut Standings) {
    let accepted = match answer {
        Value::Int(count) => *count,
        answer => return not_pushed(pushes, answer),
    };
    if let Some(first) = pushes.first()
        && usize::try_from(accepted).is_ok_and(|accepted| accepted == pushes.len())
    {
        standings.found_good(first.address.as_str());
    }
    for (index, push) in pushes.into_iter().enumerate() {
        if i64::try_from(index).is_ok_and(|index| index < accepted) {
            push.accepted();
        } else if accepted < 0 {
            let error = nobody_serves(&push.address);
            push.failed(error);
        } else {
            let text = format!(
                "the queue `{}` is full: {} requests wait in it; its servers are too slow or too few",
                push.address,
                super::QUEUE_LIMIT
            );
            push.failed(TransportError::did_not_run(TransportErrorKind::QueueFull, text));
        }
    }
}

fn nobody_serves(address: &Address) -> TransportError {
    let text = format!("nobody serves `{address}`");
    TransportError::did_not_run(TransportErrorKind::NoResponders, text)
}

/// The broker answered a push with no number.
fn not_pushed(pushes: Vec<Push>, answer: &Value) {
    for push in pushes {
        let error = match answer {
            Value::Error(error) => fault::refused(&format!("send to `{}`", push.address), error),
            _ => unexpected("send"),
        };
        push.failed(error);
    }
}

fn plainly_pushed(pushes: Vec<Push>, looked: bool, answer: &Value, standings: &mut Standings) -> Next {
    let Some(address) = pushes.first().map(|push| push.address.clone()) else {
        return Next::Nothing;
    };
    // The length, two times to live, and if it looked, the presence and the time.
    let results = match answer {
        Value::Array(results) => results.as_slice(),
        _ => &[],
    };
    let length = match results.first() {
        Some(Value::Int(length)) => *length,
        other => {
            standings.forget(address.as_str());
            not_pushed(pushes, other.unwrap_or(answer));
            return Next::Nothing;
        }
    };
    let absent = match results.get(3..) {
        _ if !looked => None,
        Some([Value::Error(error), ..]) => Some(fault::refused(&format!("send to `{address}`"), error)),
        Some([presence, time, ..]) if is_present(presence, time) => None,
        _ => Some(nobody_serves(&address)),
    };
    if let Some(error) = absent {
        standings.forget(address.as_str());
        return Next::Withdraw(pushes, error);
    }
    standings.pushed(address.as_str(), pushes.len(), length);
    for push in pushes {
        push.accepted();
    }
    Next::Nothing
}

/// Whether the latest time in a presence, in ms, lies after the broker's time.
fn is_present(presence: &Value, time: &Value) -> bool {
    let score = match presence {
        Value::Array(pairs) => match pairs.first() {
            Some(Value::Array(pair)) => pair.get(1).and_then(Value::as_str),
            _ => None,
        },
        _ => None,
    };
    let part = |index: usize| match time {
        Value::Array(parts) => parts.get(index)?.as_str()?.parse::<f64>().ok(),
        _ => None,
    };
    match (
        score.and_then(|score| score.parse::<f64>().ok()),
        part(0),
        part(1),
    ) {
        (Some(until), Some(seconds), Some(micros)) => until > seconds * 1000.0 + (micros / 1000.0).floor(),
        _ => false,
    }
}

fn withdrawn(pushes: Vec<Push>, error: &TransportError, answer: &Value) {
    let found = match answer {
        Value::Array(found) => found.as_slice(),
        _ => &[],
    };
    for (index, push) in pushes.into_iter().enumerate() {
        match found.get(index).and_then(Value::as_int) {
            // Somebody took it: there was a server after all.
            Some(0) => push.accepted(),
            Some(_) => push.failed(error.clone()),
            None => push.failed(TransportError {
                execution: Execution::MayHaveRun,
                ..error.clone()
            }),
        }
    }
}

/// What the broker answered to replies.
pub(super) fn replied(groups: &[Vec<Reply>], answer: &Value) {
    let refused = |group: &[Reply], error: &ServerError| {
        if let Some(reply) = group.first() {
            tracing::warn!(
                list = reply.list,
                replies = group.len(),
                error = fault::text(error),
                "the broker refused replies; their callers will time out"
            );
        }
    };
    match answer {
        Value::Error(error) => groups.iter().for_each(|group| refused(group, error)),
        // Two results each: the push and the time to live.
        Value::Array(results) => {
            for (group, result) in groups.iter().zip(results.iter().step_by(2)) {
                if let Value::Error(error) = result {
                    refused(group, error);
                }
            }
        }
        _ => {}
    }
}

impl Job {
    /// About how many bytes it comes to.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Push(push) => push.item.len(),
            Self::Publish { body, .. } => body.len(),
            Self::Reply(reply) => reply.item.len(),
            Self::GiveBack(given) => given.item.len(),
            Self::Ask(ask) => ask.command.len(),
            Self::Call(call) => call.keys.len() * 64 + call.arguments.iter().map(Bytes::len).sum::<usize>(),
            Self::Append(append) => append.item.len(),
            Self::Ack(ack) => ack.id.len(),
        }
    }

    /// There is no connection. What can wait for the next one comes back.
    pub(super) fn unsent(self) -> Option<Self> {
        match self {
            Self::Push(push) => {
                let error = fault::disconnected(&format!("send to `{}`", push.address));
                push.failed(error);
            }
            Self::Publish { channel, done, .. } => {
                let _ = done.send(Err(fault::disconnected(&format!("publish to `{channel}`"))));
            }
            Self::Append(append) => append.unsent(),
            Self::Call(ref call) if call.script.is_repeatable() => return Some(self),
            Self::Ask(Ask { what, done, .. }) | Self::Call(Call { what, done, .. }) => {
                if let Some(done) = done {
                    done.tell(Err(fault::disconnected(what)));
                }
            }
            Self::Reply(_) | Self::GiveBack(_) | Self::Ack(_) => return Some(self),
        }
        None
    }
}
