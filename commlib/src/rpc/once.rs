//! One piece of work for each idempotency key: the first request with a key runs the method, the others get its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::durable_call::read_key;
use super::{HandlerResult, RequestContext, RpcService};
use crate::address::Address;
use crate::envelope::{APPLICATION, Envelope, Headers, Meta, WireError};
use crate::error::{Execution, Failure, Status, StatusCode};
use crate::node::Node;
use crate::transport::{Claim, Claimed};

/// How often it is looked whether another request with the same key is done: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long it is waited before a broker that can't be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a request beside what middleware can change.
pub(super) struct Once {
    /// How often it was delivered.
    pub(super) attempt: u32,
    /// Its id.
    pub(super) id: String,
    /// The method at the broker.
    pub(super) address: Address,
    /// How long the answer is remembered.
    pub(super) window: Duration,
    /// Until when it waits for the answer to another request with the same key: as long as its caller waits for the
    /// answer to this one; without a limit where it has no answer.
    pub(super) until: Option<Instant>,
}

impl Once {
    /// Runs the method, or finds out what came of it.
    pub(super) async fn run(
        self: Arc<Self>,
        service: Arc<dyn RpcService>,
        method: &'static str,
        context: RequestContext,
        body: Bytes,
    ) -> HandlerResult {
        let node = context.node.clone();
        let claim = Claim {
            address: self.address.clone(),
            key: read_key(&context.headers)?.to_owned(),
            body: fingerprint(context.codec.content_type(), &body),
            owner: self.id.clone(),
            window: self.window,
        };
        let mut look = LOOK.0;
        loop {
            match node.transport().claim(claim.clone()).await {
                Ok(Claimed::Granted) => break,
                Ok(Claimed::Answered(answer)) => return node.take_reply((*answer).into()),
                Ok(Claimed::OtherBody) => {
                    let text = "the idempotency key is that of another request, which had another body; use a new key for what is new";
                    return Err(Status::new(StatusCode::InvalidArgument, text).into());
                }
                Ok(Claimed::Taken) if self.until.is_none_or(|until| Instant::now() + look < until) => {
                    sleep(look).await;
                    look = (look * 2).min(LOOK.1);
                }
                Ok(Claimed::Taken) => {
                    let text = "a request with the same idempotency key is being handled; its answer did not come in time";
                    return Err(Status::new(StatusCode::Unavailable, text).into());
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "an idempotency key could not be looked up; trying on");
                    sleep(ASK_AGAIN).await;
                }
            }
        }
        let outcome = {
            let mut work = service.call(method, context, body);
            loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    () = sleep(self.window / 3) => {
                        if let Err(error) = node.transport().claim(claim.clone()).await {
                            tracing::warn!(address = %self.address, %error, "an idempotency key could not be kept");
                        }
                    }
                }
            }
        };
        if let Err(error) = node.transport().conclude(claim, answer(&outcome)).await {
            tracing::warn!(address = %self.address, %error, "the answer to an idempotency key could not be kept");
        }
        outcome
    }
}

/// A request that is given up leaves the work to others with its key.
pub(super) async fn give_up(node: &Node, address: &Address, headers: &Headers, id: &str) {
    let Ok(key) = read_key(headers) else { return };
    let claim = Claim {
        address: address.clone(),
        key: key.to_owned(),
        body: 0,
        owner: id.to_owned(),
        window: Duration::ZERO,
    };
    if let Err(error) = node.transport().conclude(claim, None).await {
        tracing::debug!(%address, %error, "the idempotency key of a dead letter could not be given up");
    }
}

/// What others with the same key get: what the method returned. What kept it from running says nothing about them.
fn answer(outcome: &HandlerResult) -> Option<Envelope> {
    let (data, codec, error) = match outcome {
        Ok(reply) => (reply.body.clone(), reply.codec, None),
        Err(Failure::App(error)) => {
            let wire = WireError {
                code: APPLICATION.to_owned(),
                message: error.message.clone(),
                details: error.details.clone(),
                execution: Some(Execution::Failed),
            };
            (Bytes::new(), error.codec, Some(wire))
        }
        Err(Failure::Status(_) | Failure::Local(_)) => return None,
    };
    Some(Envelope {
        data,
        meta: Meta {
            content_type: codec.said(),
            error: error.map(Box::new),
            ..Meta::default()
        },
    })
}

/// FNV-1a: tells bodies apart that were mixed up, not those of somebody who wants to be mixed up. All servers of all
/// versions have to agree on it.
fn fingerprint(content_type: &str, body: &[u8]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let bytes = content_type.bytes().chain([0]).chain(body.iter().copied());
    bytes.fold(START, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_the_standard() {
        // The published value of FNV-1a with 128 bits for "foobar" begins with the content type here.
        let alone = |text: &[u8]| {
            text.iter()
                .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
                    (hash ^ u128::from(*byte)).wrapping_mul((1 << 88) + 0x13b)
                })
        };
        assert_eq!(alone(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
        assert_eq!(fingerprint("foo", b"bar"), alone(b"foo\0bar"));
        assert_ne!(fingerprint("a", b""), fingerprint("", b"a"));
    }
}
