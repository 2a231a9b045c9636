//! Generated code is documented, in the user's words where there are any.
#![deny(missing_docs, rustdoc::all)]
#![allow(unreachable_pub, reason = "the lint on docs looks at what is public")]

/// The module is public, so that `missing_docs` has something to say.
pub mod contracts {
    /// Sums.
    ///
    /// See [`Calculator::add`].
    #[commlib::rpc_service]
    pub trait Calculator {
        /// Adds; see [`Calculator`].
        async fn add(&self, a: u8) -> u8;
        /// Resets.
        #[rpc(oneway)]
        async fn reset(&self);
    }

    /// Readings.
    #[commlib::topic]
    pub trait Sensors {
        /// One reading.
        async fn reading(&self, a: u8);
    }
}

pub(crate) fn main() {}
