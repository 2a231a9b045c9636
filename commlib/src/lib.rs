//! Typed messaging over message brokers: write a contract once, as a Rust trait, then call it, serve it, publish it and
//! subscribe to it over RabbitMQ, Redis or an in-process bus, chosen by a URL and nothing else.
//!
//! ```text
//!   CalculatorClient ──┐                                    ┌── CalculatorServer<Calc>
//!   SensorsPublisher ──┤ Node ── memory:// redis:// amqp:// ── Node ├── SensorsHandler<Mine>
//!                      └                                    └── SensorsSubscriber
//! ```
//!
//! One rule holds for all patterns: **the trait is what a receiver implements; the generated struct is what a sender
//! calls.**
//!
//! # Calls
//!
//! ```
//! use commlib::prelude::*;
//!
//! #[derive(Debug, Serialize, Deserialize, JsonSchema, thiserror::Error)]
//! #[serde(tag = "type")]
//! pub enum DivError {
//!     #[error("division by zero")]
//!     ByZero,
//! }
//!
//! #[commlib::rpc_service(name = "calculator")]
//! pub trait Calculator {
//!     /// Adds two integers.
//!     #[rpc(idempotent)]
//!     async fn add(&self, a: i64, b: i64) -> i64;
//!
//!     #[rpc(timeout = "2s")]
//!     async fn div(&self, a: i64, b: i64) -> Result<i64, DivError>;
//! }
//!
//! struct Calc;
//!
//! impl Calculator for Calc {
//!     async fn add(&self, a: i64, b: i64) -> i64 {
//!         a + b
//!     }
//!     async fn div(&self, a: i64, b: i64) -> Result<i64, DivError> {
//!         a.checked_div(b).ok_or(DivError::ByZero)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::connect("memory://").await?; // or redis://…, amqp://…
//! let server = node.serve(CalculatorServer::new(Calc)).await?;
//!
//! let calculator = CalculatorClient::new(&node);
//! assert_eq!(calculator.add(1, 2).await?, 3);
//! match calculator.div(1, 0).await {
//!     Err(CallError::App(DivError::ByZero)) => {}
//!     other => panic!("{other:?}"),
//! }
//! server.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! A call ends by its deadline, whatever the broker does: 10 s unless the node, the method or the call says otherwise.
//! Every error says what happened to the work ([`Execution`]). Dropping a call cancels it.
//!
//! # Topics
//!
//! ```
//! use commlib::prelude::*;
//!
//! #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
//! #[serde(rename_all = "snake_case")]
//! pub enum Side {
//!     Front,
//!     Rear,
//! }
//!
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
//! pub struct Sonar {
//!     range: f64,
//! }
//!
//! #[commlib::topic(prefix = "sensors")]
//! pub trait Sensors {
//!     #[topic("sonar.{side}")]
//!     async fn sonar(&self, side: Side, reading: Sonar);
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::connect("memory://").await?;
//! let mut readings = SensorsSubscriber::new(&node).sonar(Any).await?;
//! SensorsPublisher::new(&node).sonar(Side::Front, Sonar { range: 1.5 }).await?;
//!
//! let received = readings.next().await.ok_or("the stream ended")??;
//! assert_eq!((received.captures, received.message), ((Side::Front,), Sonar { range: 1.5 }));
//! # Ok(()) }
//! ```
//!
//! A subscription is a stream of messages, and of notices ([`RecvError`]) when messages were missed.
//!
//! # Features
//!
//! `memory`, `redis` and `amqp` are the transports, `tls` their secure connections, `durable` adds durable topics and
//! methods; all are on by default. `msgpack` adds bodies in MessagePack ([`Codec`]), `compression` compressed ones
//! ([`Compression`]).

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod __fuzz;
#[doc(hidden)]
pub mod __private;
pub mod address;
mod codec;
mod compression;
pub mod envelope;
pub mod error;
mod limits;
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
pub use codec::Codec;
pub use compression::Compression;
pub use envelope::{Dialect, Headers};
pub use error::{
    AppFailure, CallError, ConnectError, Execution, Failure, LocalError, NoError, NodeError, Status,
    StatusCode,
};
pub use limits::Limits;
pub use message::{CaptureError, Message, ServiceError, TopicLevel};
pub use node::{Node, NodeBuilder, Serve, URL_VARIABLE};
pub use rpc::{Call, DurableCall, DurableOneway, Oneway, RequestContext, ServerHandle};
pub use schema::Contract;
pub use topic::{Any, MessageContext, Received, RecvError};
pub use transport::{Accepted, BrokerUrl, ConnectionState, DeadLetter, Durability, ReplyRoute, Tls};

pub use commlib_macros::{rpc, rpc_service, topic};
