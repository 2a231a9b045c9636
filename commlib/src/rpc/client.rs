//! What generated clients are made of.

use serde::Serialize;

use super::{Call, DurableCall, DurableOneway, MethodDescriptor, Oneway};
use crate::address::Address;
use crate::codec;
use crate::error::LocalError;
use crate::message::{Message, ServiceError};
use crate::node::Node;

/// The method's own error of a call without a contract, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize, schemars::JsonSchema, thiserror::Error)]
#[serde(transparent)]
#[error("{0}")]
pub struct UntypedError(pub serde_json::Value);

/// Makes calls through a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RpcClient {
    node: Node,
}

impl RpcClient {
    /// A client of this node.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        Self { node: node.clone() }
    }

    /// Prepares a call. Nothing is sent before it is awaited.
    pub fn call<Q: Serialize, T: Message, E: ServiceError>(
        &self,
        method: &'static MethodDescriptor,
        request: &Q,
    ) -> Call<T, E> {
        Call::of_method(
            self.node.clone(),
            method,
            codec::encode(self.node.config().codec, request).map_err(LocalError::Encode),
        )
    }

    /// Prepares a call without a contract: to an address, with any JSON, for tools. Nothing is sent before it is
    /// awaited.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commlib::{Address, Node, rpc::RpcClient};
    /// let node = Node::connect("memory://untyped").await?;
    /// let call = RpcClient::new(&node).call_untyped(Address::new("calculator.add")?, &serde_json::json!({"a": 1}));
    /// assert!(call.await.unwrap_err().is_no_responders());
    /// # Ok(()) }
    /// ```
    pub fn call_untyped(
        &self,
        address: Address,
        request: &serde_json::Value,
    ) -> Call<serde_json::Value, UntypedError> {
        Call::to_address(
            self.node.clone(),
            address,
            codec::encode(self.node.config().codec, request).map_err(LocalError::Encode),
        )
    }

    /// Prepares a call of a durable method. Nothing is sent before it is awaited.
    pub fn durable_call<Q: Serialize, T: Message, E: ServiceError>(
        &self,
        method: &'static MethodDescriptor,
        request: &Q,
    ) -> DurableCall<T, E> {
        DurableCall::new(self.call(method, request))
    }

    /// Prepares a request to a durable method that has no reply. Nothing is sent before it is awaited.
    pub fn durable_oneway<Q: Serialize>(
        &self,
        method: &'static MethodDescriptor,
        request: &Q,
    ) -> DurableOneway {
        DurableOneway::new(self.oneway(method, request))
    }

    /// Prepares a request without a reply. Nothing is sent before it is awaited.
    pub fn oneway<Q: Serialize>(&self, method: &'static MethodDescriptor, request: &Q) -> Oneway {
        Oneway::new(
            self.node.clone(),
            method,
            codec::encode(self.node.config().codec, request).map_err(LocalError::Encode),
        )
    }
}
