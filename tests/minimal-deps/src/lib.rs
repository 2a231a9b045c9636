//! Contracts in a crate that knows commlib only under another name, or through another crate; that depends neither on
//! serde nor on schemars; that has no prelude. It compiles without a warning; `tests/round_trip.rs`
//! uses it.
#![no_implicit_prelude]
#![deny(warnings, missing_docs, rustdoc::all)]
#![warn(clippy::pedantic)]

use ::commlib_minimal_deps_facade::{Pair, messaging as through_a_facade, swapping_service};

/// commlib under another name in Cargo.toml.
#[::messaging::rpc_service(crate = ::messaging, name = "renamed")]
pub trait Renamed {
    /// Adds.
    #[rpc(idempotent, timeout = "2s")]
    async fn add(&self, a: u8, #[rpc(default)] b: u8, ctx: &::messaging::RequestContext) -> u8;
    /// Fails.
    async fn fail(&self) -> ::core::result::Result<Pair, ::messaging::NoError>;
    /// Tells.
    #[rpc(oneway)]
    async fn tell(&self, text: ::std::string::String);
}

/// commlib through another crate.
#[through_a_facade::rpc_service(crate = through_a_facade)]
pub trait Reexported {
    /// Swaps.
    #[rpc(body)]
    async fn swap(&self, pair: Pair) -> Pair;
}

/// Topics, by a path that starts in this crate.
#[crate::inner::commlib_by_any_name::topic(crate = crate::inner::commlib_by_any_name)]
pub trait Topics {
    /// A pair in a room.
    #[topic("room.{room}.pair")]
    async fn pair(&self, room: u8, pair: Pair);
}

/// Holds a re-export.
pub mod inner {
    pub use ::messaging as commlib_by_any_name;
}

swapping_service! {
    /// Declared by another crate's macro.
    pub Swapping
}
