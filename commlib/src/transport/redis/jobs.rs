//! What the writer is asked to write, and how the outcome of each gets back to whoever asked.

use bytes::Bytes;
use redis::ServerError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::fault;
use super::outbox::Replies;
use super::push::Row;
use super::resp::Value;
use super::scripts::Script;
use super::standing::{Look, Standings};
use super::stream::{self, Ack, Append};
use crate::address::Address;
use crate::envelope::Encoded;
use crate::error::Execution;
use crate::transport::{Accepted, Durability, TransportError};

/// Something for the writer.
pub(super) enum Job {
    /// There are rows to take.
    Rows,
    /// To be pushed again.
    Row(Row),
    Publish {
        channel: Address,
        body: Encoded,
        done: oneshot::Sender<Result<Accepted, TransportError>>,
    },
    Replies(Replies),
    GiveBack(GiveBack),
    Ask(Ask),
    Call(Call),
    Append(Append),
    Ack(Ack),
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
    Row(Row),
    /// To one queue, by plain commands that look at the same time.
    PlainRow(Row, Look),
    /// Pushes that are taken back, with the reason.
    Withdrawal(Row, TransportError),
    /// By reply list.
    Replies(Vec<Vec<Replies>>),
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
    Withdraw(Row, TransportError),
}

impl Load {
    fn uses_script(&self) -> bool {
        matches!(
            self,
            Self::Row(_) | Self::Withdrawal(..) | Self::GiveBack(_) | Self::Call(_)
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
            Self::Row(row) => row.pushed(&answer, standings),
            Self::PlainRow(row, look) => {
                if let Some((row, error)) = row.plainly_pushed(look, &answer, standings) {
                    return Next::Withdraw(row, error);
                }
            }
            Self::Withdrawal(row, error) => row.withdrawn(&error, &answer),
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
                    _ => Err(fault::unexpected("publish")),
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
            Self::Row(row) | Self::PlainRow(row, _) => row.lost(reason, execution),
            Self::Publish { channel, done } => {
                let error = fault::lost(&format!("publish to `{channel}`"), reason, execution);
                let _ = done.send(Err(error));
            }
            // A reply that comes twice finds its call answered. A request that comes twice would run twice.
            Self::Replies(groups) => return groups.into_iter().flatten().map(Job::Replies).collect(),
            // They were pushed before.
            Self::Withdrawal(row, _) => row.lost(reason, Execution::MayHaveRun),
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

/// What the broker answered to replies.
pub(super) fn replied(groups: &[Vec<Replies>], answer: &Value) {
    let refused = |group: &[Replies], error: &ServerError| {
        if let Some(first) = group.first() {
            tracing::warn!(
                list = first.list,
                replies = group.iter().map(|replies| replies.count).sum::<usize>(),
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
            Self::Rows => 0,
            Self::Row(row) => row.words.len(),
            Self::Publish { body, .. } => body.len(),
            Self::Replies(replies) => replies.words.len(),
            Self::GiveBack(given) => given.item.len(),
            Self::Ask(ask) => ask.command.len(),
            Self::Call(call) => call.keys.len() * 64 + call.arguments.iter().map(Bytes::len).sum::<usize>(),
            Self::Append(append) => append.item.len(),
            Self::Ack(_) => 32,
        }
    }

    /// There is no connection. What can wait for the next one comes back.
    pub(super) fn unsent(self) -> Option<Self> {
        match self {
            // They were told when the connection went.
            Self::Rows => {}
            Self::Row(row) => row.unsent(),
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
            Self::Replies(_) | Self::GiveBack(_) | Self::Ack(_) => return Some(self),
        }
        None
    }
}
