//! Sharing topic messages within a group.
//!
//! Redis gives every subscriber a copy, so members agree through the broker: whoever claims a message first handles
//! it. A native message is claimed by its id. Messages without an id that look the same are told apart by their order:
//! all members see them in the same one, and the broker counts how many were claimed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::Handle;
use super::jobs::{Ask, Call, Job, Tell};
use super::resp::{self, Value};
use super::scripts::Script;
use super::subscription::Entry;
use crate::envelope::Envelope;
use crate::transport::{TopicMessage, TransportError};

/// How long a claim stands, in ms.
const CLAIM_MS: &str = "10000";
/// A message that waited longer is left to the others: the claim of one of them may have run out.
const WAIT: Duration = Duration::from_secs(8);
/// Messages that wait for a permit.
pub(super) const QUEUE: usize = 10_000;

/// A message that may become this member's.
pub(super) struct Candidate {
    address: String,
    message: Envelope,
    identity: Identity,
    since: Instant,
}

enum Identity {
    Id(String),
    /// What the message looks like.
    Look(u128),
}

impl Candidate {
    pub(super) fn new(address: &str, message: Envelope, raw: &Bytes) -> Self {
        let id = message.meta.id.as_deref().filter(|id| {
            (16..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        });
        let identity = match id {
            Some(id) => Identity::Id(id.to_owned()),
            None => Identity::Look(look(&[address.as_bytes(), raw])),
        };
        Self {
            address: address.to_owned(),
            identity,
            message,
            since: Instant::now(),
        }
    }
}

/// FNV-1a: the same in every process and version. Whoever forges a collision spoils only messages he could have spoilt.
fn look(parts: &[&[u8]]) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}

/// The task of one member.
pub(super) struct Member {
    pub(super) entry: Arc<Entry>,
    pub(super) handle: Arc<Handle>,
    pub(super) group: String,
    /// Names this member.
    pub(super) name: String,
    /// When it began to listen, in µs of the broker's clock: what was claimed before it never saw.
    pub(super) joined: u64,
    pub(super) permits: Arc<Semaphore>,
    pub(super) queue: mpsc::Receiver<Candidate>,
    pub(super) stop: CancellationToken,
}

type Claimed = (
    Candidate,
    OwnedSemaphorePermit,
    Result<Result<Value, TransportError>, oneshot::error::RecvError>,
);

impl Member {
    /// Runs until it is stopped; what is claimed by then is still delivered.
    pub(super) async fn run(mut self, ended: watch::Sender<bool>) {
        let mut claims = FuturesOrdered::new();
        let mut held = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(claimed) = claims.next(), if !claims.is_empty() => self.claimed(claimed),
                permit = Arc::clone(&self.permits).acquire_owned(), if held.is_none() => match permit {
                    Ok(permit) => held = Some(permit),
                    Err(_) => break,
                },
                candidate = self.queue.recv(), if held.is_some() => {
                    let Some(candidate) = candidate else { break };
                    if let Some(permit) = held.take() {
                        match self.claim(candidate) {
                            Some((candidate, answer)) => claims.push_back(async move { (candidate, permit, answer.await) }),
                            None => held = Some(permit),
                        }
                    }
                }
            }
        }
        drop(held);
        while let Some(claimed) = claims.next().await {
            self.claimed(claimed);
        }
        ended.send_replace(true);
    }

    fn claim(
        &self,
        candidate: Candidate,
    ) -> Option<(Candidate, oneshot::Receiver<Result<Value, TransportError>>)> {
        let sent = candidate
            .message
            .meta
            .timestamp
            .filter(|_| matches!(candidate.identity, Identity::Id(_)));
        let age = sent.map_or(Duration::ZERO, |sent| {
            let clock = &self.handle.clock;
            clock.since(clock.to_broker(sent))
        });
        if age.max(candidate.since.elapsed()) > WAIT {
            self.entry.dropped(
                "it waited too long for a free handler to tell whether another member of the group has it",
            );
            return None;
        }
        let (done, answer) = oneshot::channel();
        let what = "claim a message";
        let job = match &candidate.identity {
            Identity::Id(id) => {
                let key = format!("commlib:claim:{}:{id}", self.group);
                let mut command = Vec::new();
                let words: [&[u8]; 6] = [b"SET", key.as_bytes(), b"1", b"NX", b"PX", CLAIM_MS.as_bytes()];
                resp::command(&mut command, &words);
                Job::Ask(Ask {
                    command,
                    what,
                    done: Some(Tell::Future(done)),
                })
            }
            Identity::Look(look) => Job::Call(Call {
                script: Script::Claim,
                keys: vec![format!("commlib:claim:{}:{look:032x}", self.group)],
                arguments: vec![
                    self.name.clone().into(),
                    CLAIM_MS.into(),
                    self.joined.to_string().into(),
                ],
                what,
                done: Some(Tell::Future(done)),
            }),
        };
        self.handle.queue(job);
        Some((candidate, answer))
    }

    fn claimed(&self, (candidate, permit, answer): Claimed) {
        match answer {
            Ok(Ok(Value::Text(_) | Value::Int(1))) => self.entry.deliver(TopicMessage {
                address: candidate.address,
                message: candidate.message,
                permit: Some(permit),
                tracked: None,
            }),
            Ok(Ok(_)) => {}
            // It may be this member's by now, or nobody's.
            Ok(Err(error)) => {
                tracing::warn!(group = self.group, %error, "a message of a group may be lost");
                self.entry.gap();
            }
            Err(_) => self.entry.gap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_the_same_everywhere_and_tell_parts_apart() {
        // A change of this number would let members of different versions handle a message twice.
        assert_eq!(look(&[b"a.b", b"{}"]), look(&[b"a.b", b"{}"]));
        assert_ne!(look(&[b"a.b", b"{}"]), look(&[b"a.", b"b{}"]));
        assert_eq!(format!("{:032x}", look(&[])), "6c62272e07bb014262b821756295c58d");
    }
}
