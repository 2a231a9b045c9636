//! The one place through which generated code touches a user's message types.
//!
//! Each gate has its real functions as *inherent* items bounded by the public traits (`Message`, `ServiceError`,
//! `TopicLevel`), and the same functions, inert, in a trait that every gate implements. A path such as
//! `RpcGate::<Q, T, E>::call` names the inherent function where the bounds hold and falls back to the trait's otherwise. So a
//! type that lacks a derive gives exactly one compile error, that of `assert_message::<T>()` at the type in the user's
//! trait, and not one for each place where generated code uses it. The inert functions can't run: the crate doesn't compile.
//! `OPEN` is the safety net: generated code asserts it at compile time beside the other assertions.

use std::marker::PhantomData;

use super::{
    CaptureError, CaptureSchemas, Captures, Codec, ContractBuilder, Failure, HandlerResult, MethodDescriptor,
    RpcClient, TopicDescriptor, TopicPublisher, TopicSubscriber,
};
use crate::codec;
use crate::error::{Status, StatusCode};
use crate::rpc::{Call, DurableCall, DurableOneway, Oneway};
use crate::topic::{IntoSelector, Publish, Subscribe};
use crate::{Message, ServiceError, TopicLevel};

/// Asserts that `T` can be a message; called with the span of the type in the user's trait.
pub const fn assert_message<T: Message>() {}
/// Asserts that `E` can be the error of a method.
pub const fn assert_error<E: ServiceError>() {}
/// Asserts that `T` can be one level of a topic.
pub const fn assert_level<T: TopicLevel>() {}
/// Whether this build has durable topics and methods.
pub const DURABLE: bool = crate::transport::durable::BUILT;
/// Asserts that an argument marked `#[rpc(default)]` has a default.
pub const fn assert_default<T: Default>() {}

/// What generated code does with the types of one rpc method: request `Q`, reply `T`, error `E`.
#[derive(Debug)]
pub struct RpcGate<Q, T, E>(PhantomData<fn(Q) -> (T, E)>);

impl<Q: Message, T: Message, E: ServiceError> RpcGate<Q, T, E> {
    pub const OPEN: bool = true;
    pub fn call(client: &RpcClient, method: &'static MethodDescriptor, request: &Q) -> Call<T, E> {
        client.call(method, request)
    }
    pub fn oneway(client: &RpcClient, method: &'static MethodDescriptor, request: &Q) -> Oneway {
        client.oneway(method, request)
    }
    pub fn durable_call(
        client: &RpcClient,
        method: &'static MethodDescriptor,
        request: &Q,
    ) -> DurableCall<T, E> {
        client.durable_call(method, request)
    }
    pub fn durable_oneway(
        client: &RpcClient,
        method: &'static MethodDescriptor,
        request: &Q,
    ) -> DurableOneway {
        client.durable_oneway(method, request)
    }
    pub fn decode(codec: Codec, body: &[u8]) -> Result<Q, Failure> {
        super::decode(codec, body)
    }
    /// Decodes an object keyed by argument name. Serde's derive would take an array for one, by position, which would make the
    /// order of a method's arguments part of the contract.
    pub fn decode_object(codec: Codec, body: &[u8]) -> Result<Q, Failure> {
        if codec::is_array(codec, body) {
            let text =
                "the body is not what the method takes: an array instead of an object keyed by argument name";
            return Err(Status::new(StatusCode::InvalidArgument, text).into());
        }
        super::decode(codec, body)
    }
    pub fn encode_reply(codec: Codec, value: &T) -> HandlerResult {
        super::encode_reply(codec, value)
    }
    pub fn encode_result(codec: Codec, value: &Result<T, E>) -> HandlerResult {
        super::encode_result(codec, value)
    }
    pub fn describe(contract: &mut ContractBuilder, method: &'static MethodDescriptor, doc: &str) {
        contract.method::<Q, T, E>(method, doc);
    }
}

/// Inert stand-ins for [`RpcGate`]; see the module text.
pub trait ClosedRpcGate<Q, T, E> {
    const OPEN: bool = false;
    fn call(_: &RpcClient, _: &'static MethodDescriptor, _: &Q) -> Call<T, E> {
        std::process::abort()
    }
    fn oneway(_: &RpcClient, _: &'static MethodDescriptor, _: &Q) -> Oneway {
        std::process::abort()
    }
    fn durable_call(_: &RpcClient, _: &'static MethodDescriptor, _: &Q) -> DurableCall<T, E> {
        std::process::abort()
    }
    fn durable_oneway(_: &RpcClient, _: &'static MethodDescriptor, _: &Q) -> DurableOneway {
        std::process::abort()
    }
    fn decode(_: Codec, _: &[u8]) -> Result<Q, Failure> {
        std::process::abort()
    }
    fn decode_object(_: Codec, _: &[u8]) -> Result<Q, Failure> {
        std::process::abort()
    }
    fn encode_reply(_: Codec, _: &T) -> HandlerResult {
        std::process::abort()
    }
    fn encode_result(_: Codec, _: &Result<T, E>) -> HandlerResult {
        std::process::abort()
    }
    fn describe(_: &mut ContractBuilder, _: &'static MethodDescriptor, _: &str) {}
}
impl<Q, T, E> ClosedRpcGate<Q, T, E> for RpcGate<Q, T, E> {}

/// What generated code does with the types of one topic: message `M`, captures `C` (a tuple, in template order).
#[derive(Debug)]
pub struct TopicGate<M, C>(PhantomData<fn(M, C)>);

impl<M: Message, C: Captures + CaptureSchemas> TopicGate<M, C> {
    pub const OPEN: bool = true;
    pub fn publish(
        publisher: &TopicPublisher,
        topic: &'static TopicDescriptor,
        captures: Vec<Result<String, CaptureError>>,
        message: &M,
    ) -> Publish {
        publisher.publish(topic, captures, message)
    }
    pub fn subscribe(
        subscriber: &TopicSubscriber,
        topic: &'static TopicDescriptor,
        selectors: Vec<Result<Option<String>, CaptureError>>,
    ) -> Subscribe<M, C> {
        subscriber.subscribe(topic, selectors)
    }
    pub fn decode(codec: Codec, body: &[u8]) -> Result<M, Failure> {
        super::decode(codec, body)
    }
    pub fn describe(contract: &mut ContractBuilder, topic: &'static TopicDescriptor, doc: &str) {
        contract.topic::<M, C>(topic, doc);
    }
}

/// Inert stand-ins for [`TopicGate`]; see the module text.
pub trait ClosedTopicGate<M, C> {
    const OPEN: bool = false;
    fn publish(
        _: &TopicPublisher,
        _: &'static TopicDescriptor,
        _: Vec<Result<String, CaptureError>>,
        _: &M,
    ) -> Publish {
        std::process::abort()
    }
    fn subscribe(
        _: &TopicSubscriber,
        _: &'static TopicDescriptor,
        _: Vec<Result<Option<String>, CaptureError>>,
    ) -> Subscribe<M, C> {
        std::process::abort()
    }
    fn decode(_: Codec, _: &[u8]) -> Result<M, Failure> {
        std::process::abort()
    }
    fn describe(_: &mut ContractBuilder, _: &'static TopicDescriptor, _: &str) {}
}
impl<M, C> ClosedTopicGate<M, C> for TopicGate<M, C> {}

/// What generated code does with the type of one captured topic level.
#[derive(Debug)]
pub struct LevelGate<T>(PhantomData<fn(T)>);

impl<T: TopicLevel> LevelGate<T> {
    pub fn to_level(value: &T) -> Result<String, CaptureError> {
        super::capture_to_level(value)
    }
    pub fn from_level(levels: &[String], index: usize) -> Result<T, Failure> {
        super::capture_from_level(levels, index)
    }
    pub fn selector(selector: impl IntoSelector<T>) -> Result<Option<String>, CaptureError> {
        super::selector_to_level(selector)
    }
}

/// Inert stand-ins for [`LevelGate`]; see the module text.
pub trait ClosedLevelGate<T> {
    fn to_level(_: &T) -> Result<String, CaptureError> {
        std::process::abort()
    }
    fn from_level(_: &[String], _: usize) -> Result<T, Failure> {
        std::process::abort()
    }
    fn selector(_: impl IntoSelector<T>) -> Result<Option<String>, CaptureError> {
        std::process::abort()
    }
}
impl<T> ClosedLevelGate<T> for LevelGate<T> {}
