//! Requests to durable methods: each method has a stream, from which a request goes when it is settled. Whoever takes
//! requests is a [member](super::stream_member) of its one group. What is known of an idempotency key is in a hash: the
//! number of the body (`b`), the request that does the work (`o`), and once there is one the answer (`m`).

use std::sync::Arc;

use bytes::Bytes;

use super::RedisTransport;
use super::fault::unexpected;
use super::handle::Handle;
use super::jobs::{Call, Job, Tell};
use super::outbox::Replies;
use super::resp::{Skipped, Value};
use super::responder::Route;
use super::salvage;
use super::scripts::Script;
use super::stream::REQUESTS;
use crate::address::Address;
use crate::envelope::{Dialect, Envelope, native};
use crate::error::StatusCode;
use crate::limits::too_large;
use crate::transport::durable::refusal;
use crate::transport::{Accepted, Claim, Claimed, ReplySink, TransportError, TransportErrorKind};

/// Requests that are not settled, of one method; more are refused.
const LIMIT: &str = "100000";

/// Keeps a request without a reply.
pub(super) async fn send(
    transport: &RedisTransport,
    address: Address,
    mut message: Envelope,
) -> Result<Accepted, TransportError> {
    let limit = transport.options.operation_timeout;
    transport.handle.check(format!("send to `{address}`"))?;
    let durability = transport.persistence.get(&transport.handle, limit).await;
    let item = transport.encode_native(&mut message, None);
    let answer = transport
        .limited(format!("send to `{address}`"), |done| {
            keep(&address, item, Tell::Future(done))
        })
        .await?;
    accepted(&address, &answer)?;
    Ok(Accepted {
        durability,
        ..Accepted::default()
    })
}

/// Keeps a request; the sink hears of it only if that fails.
pub(super) fn request(
    transport: &RedisTransport,
    address: Address,
    mut message: Envelope,
    id: String,
    sink: Arc<dyn ReplySink>,
) {
    let item = transport.encode_native(&mut message, Some(&transport.reply_list));
    let to = address.clone();
    let tell = move |answer: Result<Value, TransportError>| {
        if let Err(error) = answer.and_then(|answer| accepted(&to, &answer)) {
            sink.failed(&id, error);
        }
    };
    transport
        .handle
        .queue(keep(&address, item, Tell::Then(Box::new(tell))));
}

fn keep(address: &Address, item: Vec<u8>, done: Tell) -> Job {
    Job::Call(Call {
        script: Script::Keep,
        keys: vec![format!("{REQUESTS}{address}")],
        arguments: vec![
            LIMIT.into(),
            Bytes::copy_from_slice(address.as_str().as_bytes()),
            item.into(),
        ],
        what: "send a request to a durable method",
        done: Some(done),
    })
}

fn accepted(address: &Address, answer: &Value) -> Result<(), TransportError> {
    match answer {
        Value::Int(1) => Ok(()),
        Value::Int(_) => Err(TransportError::did_not_run(
            TransportErrorKind::QueueFull,
            format!("{LIMIT} requests wait for the servers of `{address}` already"),
        )),
        _ => Err(unexpected("send")),
    }
}

/// A request as it was kept, or what is wrong with it; and who is to be answered.
pub(super) fn read(
    item: &Value,
    max_body: usize,
    handle: &Handle,
) -> (Result<Envelope, (StatusCode, String)>, Option<Route>) {
    let over = |size: usize| Err((StatusCode::ResourceExhausted, too_large("it", size, max_body)));
    match item {
        Value::Bulk(bytes) => match native::decode(bytes) {
            Ok((mut message, Dialect::Native)) => {
                let reply_to = message.meta.reply_to.take();
                let wants_reply = reply_to.is_some();
                let route = Route::new(reply_to, Some(Dialect::Native), message.meta.id.clone(), handle);
                let read = if wants_reply && route.is_none() {
                    let text = "it wants its answer at an address that is no reply address";
                    Err((StatusCode::InvalidArgument, text.to_owned()))
                } else if message.data.len() > max_body {
                    over(message.data.len())
                } else {
                    handle.clock.read(&mut message.meta);
                    Ok(message)
                };
                (read, route)
            }
            Ok((_, _)) => {
                let text = "it is in the dialect of commlib-py, which has no form for durable methods";
                (Err((StatusCode::InvalidArgument, text.to_owned())), None)
            }
            Err(mut malformed) => {
                let id = malformed.correlation_id.take();
                let route = Route::new(malformed.reply_to.take(), None, id, handle);
                (Err((StatusCode::InvalidArgument, malformed.reason)), route)
            }
        },
        Value::Skipped(skipped) => (over(skipped.size), route_of(skipped, handle)),
        _ => {
            let text = "it has no message".to_owned();
            (Err((StatusCode::InvalidArgument, text)), None)
        }
    }
}

fn route_of(skipped: &Skipped, handle: &Handle) -> Option<Route> {
    let malformed = salvage::route(skipped);
    Route::new(malformed.reply_to, None, malformed.correlation_id, handle)
}

/// Sends the answer to a request.
pub(super) fn answer(handle: &Handle, mut route: Route, answer: Envelope) {
    let item = route.encode(answer, handle);
    handle.queue(Job::Replies(Replies::new(route.list, item, None)));
}

/// The answer to a request that can't be handled.
pub(super) fn refused(reason: &(StatusCode, String)) -> Envelope {
    refusal(reason.0, &reason.1)
}

fn key(claim: &Claim) -> String {
    format!("commlib:once:{}:{}", claim.address, claim.key)
}

fn arguments(claim: &Claim) -> Vec<Bytes> {
    vec![
        format!("{:032x}", claim.body).into(),
        claim.owner.clone().into(),
        claim.window.as_millis().max(1).to_string().into(),
    ]
}

pub(super) async fn claim(transport: &RedisTransport, claim: Claim) -> Result<Claimed, TransportError> {
    let what = "look up an idempotency key";
    let answer = transport
        .limited(what, |done| {
            Job::Call(Call {
                script: Script::ClaimKey,
                keys: vec![key(&claim)],
                arguments: arguments(&claim),
                what,
                done: Some(Tell::Future(done)),
            })
        })
        .await?;
    match answer {
        Value::Int(1) => Ok(Claimed::Granted),
        Value::Int(2) => Ok(Claimed::Taken),
        Value::Int(3) => Ok(Claimed::OtherBody),
        Value::Skipped(skipped) => {
            let text = format!("the answer has {} bytes, over the server's limit", skipped.size);
            Ok(Claimed::Answered(Box::new(refusal(
                StatusCode::ResourceExhausted,
                &text,
            ))))
        }
        Value::Bulk(bytes) => match native::decode(&bytes) {
            Ok((answer, _)) => Ok(Claimed::Answered(Box::new(answer))),
            Err(_) => Err(unexpected("look at an idempotency key")),
        },
        _ => Err(unexpected("look at an idempotency key")),
    }
}

pub(super) async fn conclude(
    transport: &RedisTransport,
    claim: Claim,
    answer: Option<Envelope>,
) -> Result<(), TransportError> {
    let what = "keep the answer to an idempotency key";
    let mut arguments = arguments(&claim);
    arguments.extend(answer.map(|answer| Bytes::from(native::encode(&answer, None))));
    transport
        .limited(what, |done| {
            Job::Call(Call {
                script: Script::Conclude,
                keys: vec![key(&claim)],
                arguments,
                what,
                done: Some(Tell::Future(done)),
            })
        })
        .await
        .map(|_| ())
}
