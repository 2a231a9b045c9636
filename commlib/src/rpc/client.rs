//! What generated clients are made of.

use serde::Serialize;

use super::{Call, MethodDescriptor, Oneway};
use crate::codec;
use crate::error::LocalError;
use crate::message::{Message, ServiceError};
use crate::node::Node;

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
        Call::new(
            self.node.clone(),
            method,
            codec::encode(request).map_err(LocalError::Encode),
        )
    }

    /// Prepares a request without a reply. Nothing is sent before it is awaited.
    pub fn oneway<Q: Serialize>(&self, method: &'static MethodDescriptor, request: &Q) -> Oneway {
        Oneway::new(
            self.node.clone(),
            method,
            codec::encode(request).map_err(LocalError::Encode),
        )
    }
}
