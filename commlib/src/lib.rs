//! Typed messaging over message brokers: write a contract once, as a Rust trait, and call it, serve it, publish it and
//! subscribe to it over RabbitMQ, Redis or an in-process bus, chosen by a URL.

#[doc(hidden)]
pub mod __private;
pub mod address;
mod codec;
pub mod envelope;
pub mod error;
mod message;
pub mod middleware;
mod node;
pub mod prelude;
pub mod rpc;
mod runtime;
pub mod schema;
pub mod signal;
pub mod topic;
pub mod trace;
pub mod transport;

pub use address::{Address, AddressError, Pattern, Template};
pub use envelope::{Dialect, Headers};
pub use error::{
    AppFailure, CallError, ConnectError, Execution, Failure, LocalError, NoError, NodeError, Status,
    StatusCode,
};
pub use message::{CaptureError, Message, ServiceError, TopicLevel};
pub use node::{Node, NodeBuilder, Serve, URL_VARIABLE};
pub use rpc::{Call, Oneway, RequestContext, ServerHandle};
pub use schema::Contract;
pub use topic::{Any, MessageContext, Received, RecvError};
pub use transport::{Accepted, BrokerUrl, ConnectionState, ReplyRoute};

pub use commlib_macros::{rpc, rpc_service, topic};
