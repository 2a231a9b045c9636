//! The test kit: real brokers, a fault proxy, child processes and waiting with a limit.
//!
//! Everything that the kit starts is ended by its own process id, also when a test panics or the test
//! process itself is killed: a small shell process sees the end of the test process and strikes then. A
//! broker whose binary is missing fails the test with a message that names the script which installs it.
//!
//! - [`RedisServer`], [`RabbitMq`]: an own broker for a test that hurts it (`start`), or one that all tests
//!   of a run share (`shared`), where tests keep apart by [`unique`] names.
//! - [`FaultProxy`]: a relay in front of a broker that delays, loses and cuts on demand.
//! - [`Program`], [`Child`]: the examples and Python nodes as child processes, with their output.
//! - [`ledger`]: every call and what became of it, held against the promises; [`soak`]: runs under faults that keep one.
//! - [`seed`]: what tests that draw begin with.
//! - [`eventually`]: waits for a condition instead of sleeping for luck.

mod accounts;
mod blocking;
mod child;
pub mod ledger;
mod locate;
mod log;
pub mod memory;
mod net;
mod process;
mod proxy;
mod rabbitmq;
mod reaper;
mod redis;
mod resp;
mod seed;
mod shared;
mod slot;
pub mod soak;
mod temp;
mod unique;
mod wait;

pub use accounts::Account;
pub use child::{Child, Finished, Program};
pub use proxy::{Direction, FaultProxy, Flow};
pub use rabbitmq::{RabbitMq, RabbitNode, SharedRabbitMq};
pub use redis::{RedisNode, RedisServer, SharedRedis};
pub use resp::{Reply, RespClient};
pub use seed::seed;
pub use temp::TempDir;
pub use unique::unique;
pub use wait::{Condition, eventually};

pub use nix::sys::signal::Signal;
