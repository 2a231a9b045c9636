//! Typed messaging over message brokers.
pub mod address;
pub mod envelope;
pub mod error;
pub mod transport;
pub use address::{Address, Pattern, Template};
pub use error::*;
