//! What generated code names. Not part of the public API: it changes without notice.

mod gate;
mod request;

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bytes::Bytes;
pub use futures_util::future::BoxFuture;
pub use schemars;
pub use serde;

pub use self::gate::*;
pub use self::request::RequestSchema;
pub use crate::address::{Address, Template};
pub use crate::codec::Codec;
pub use crate::error::Failure;
pub use crate::message::CaptureError;
pub use crate::rpc::{HandlerResult, MethodDescriptor, RpcClient, RpcService, ServiceDescriptor};
pub use crate::schema::{CaptureSchemas, ContractBuilder};
pub use crate::topic::{
    Captures, TopicDescriptor, TopicPublisher, TopicService, TopicSubscriber, TopicsDescriptor,
};

use crate::error::{AppFailure, LocalError, Status, StatusCode};
use crate::message::{ServiceError, TopicLevel};
use crate::middleware::Reply;
use crate::node::Node;
use crate::rpc::ServeRpc;
use crate::topic::{IntoSelector, ServeTopics};
use crate::{codec, message, topic};

/// Prepares the serving of a service; generated `Serve` impls call it.
pub fn serve_rpc(node: &Node, service: Arc<dyn RpcService>) -> ServeRpc {
    ServeRpc::new(node, service)
}

/// Prepares the serving of topic handlers; generated `Serve` impls call it.
pub fn serve_topics(node: &Node, service: Arc<dyn TopicService>) -> ServeTopics {
    ServeTopics::new(node, service)
}

/// Decodes a request's or a topic message's body.
pub fn decode<T: DeserializeOwned>(codec: Codec, body: &[u8]) -> Result<T, Failure> {
    codec::decode(codec, body).map_err(|reason| {
        Status::new(
            StatusCode::InvalidArgument,
            format!("the body is not what the method takes: {reason}"),
        )
        .into()
    })
}

/// Encodes a reply.
pub fn encode_reply<T: Serialize>(codec: Codec, value: &T) -> HandlerResult {
    match codec::encode(codec, value) {
        Ok(body) => Ok(Reply::encoded(codec, body)),
        Err(reason) => Err(LocalError::Encode(reason).into()),
    }
}

/// Encodes a reply or the method's own error.
pub fn encode_result<T: Serialize, E: ServiceError>(codec: Codec, value: &Result<T, E>) -> HandlerResult {
    match value {
        Ok(value) => encode_reply(codec, value),
        Err(error) => {
            let details = codec::encode(codec, error).map_err(LocalError::Encode)?;
            Err(Failure::App(AppFailure::new(error.to_string(), codec, details)))
        }
    }
}

/// Refuses a method that the service does not have.
pub fn unknown_method(method: &str) -> BoxFuture<'static, HandlerResult> {
    let status = Status::new(
        StatusCode::Unimplemented,
        format!("the service has no method `{method}`"),
    );
    Box::pin(std::future::ready(Err(status.into())))
}

/// What a topic's handler returned in place of success.
pub fn not_handled<E: std::fmt::Display>(error: &E) -> Failure {
    Failure::App(AppFailure::new(error.to_string(), Codec::Json, Bytes::new()))
}

/// Ignores a topic that the handler does not have.
pub fn unknown_topic<'a>(topic: &str) -> BoxFuture<'a, Result<(), Failure>> {
    let status = Status::new(
        StatusCode::Unimplemented,
        format!("the handler has no topic `{topic}`"),
    );
    Box::pin(std::future::ready(Err(status.into())))
}

/// The level of a topic that a value stands for.
pub fn capture_to_level<T: TopicLevel>(value: &T) -> Result<String, CaptureError> {
    message::to_level(value)
}

/// The value that a captured level stands for.
pub fn capture_from_level<T: TopicLevel>(levels: &[String], index: usize) -> Result<T, Failure> {
    topic::level_of(levels, index).map_err(|error| {
        Status::new(
            StatusCode::InvalidArgument,
            format!("a level of the topic is not of its type: {error}"),
        )
        .into()
    })
}

/// The level that a selector stands for.
pub fn selector_to_level<T: TopicLevel>(
    selector: impl IntoSelector<T>,
) -> Result<Option<String>, CaptureError> {
    selector.into_selector()
}

/// Tells whether a type is a `Result`, behind an alias too: the inherent constant of `Probe<Result<_, _>>` hides the
/// one that [`NotResult`] gives to every other type.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// See [`Probe`].
pub trait NotResult {
    /// Whether it is.
    const IS_RESULT: bool = false;
}

impl<T> NotResult for Probe<T> {}

impl<T, E> Probe<Result<T, E>> {
    /// Whether it is.
    pub const IS_RESULT: bool = true;
}
