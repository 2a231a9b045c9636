//! Remote procedure calls: the client that generated code builds on, calls in progress, and serving.

mod call;
mod client;
mod context;
mod dispatch;
mod durable;
mod durable_call;
mod future;
mod handling;
mod once;
mod retry;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::address::Address;
use crate::middleware::Outcome;

pub(crate) use call::without_app;
pub use call::{Call, Oneway};
pub use client::{RpcClient, UntypedError};
pub use context::RequestContext;
pub use durable_call::{DurableCall, DurableOneway};
pub use future::CallFuture;
pub(crate) use retry::Budget;
pub use retry::{Retries, Retry, RetryBudget};
pub(crate) use server::Server;
pub use server::{ServeRpc, ServerHandle};

/// What is fixed about a service: its name and methods.
#[derive(Debug)]
pub struct ServiceDescriptor {
    /// The name of the service, one or more levels.
    pub name: &'static str,
    /// The methods in the order of the trait.
    pub methods: &'static [&'static MethodDescriptor],
}

/// What is fixed about a method.
#[derive(Debug)]
pub struct MethodDescriptor {
    /// Its name on the wire: the last level of its address.
    pub name: &'static str,
    /// Where requests go.
    pub address: Address,
    /// How long a call may take unless the call says otherwise.
    pub timeout: Option<Duration>,
    /// Whether it may run twice.
    pub idempotent: bool,
    /// Whether it has no reply.
    pub oneway: bool,
    /// Whether the broker keeps its requests until they were handled.
    pub durable: bool,
}

/// The encoded reply of a handler, or why there is none.
pub type HandlerResult = Outcome;

/// A service behind the wire, without its types: implemented by generated code.
pub trait RpcService: Send + Sync + 'static {
    /// Name and methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Runs the method of this name; the body is in the codec of the context, and the reply has to be.
    /// The future owns all that it needs, so that it can be moved to a task once it waits.
    fn call(
        self: Arc<Self>,
        method: &str,
        context: RequestContext,
        body: Bytes,
    ) -> BoxFuture<'static, HandlerResult>;
}
