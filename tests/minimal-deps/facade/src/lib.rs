//! Hands commlib on to a crate that does not depend on it, as a company's own prelude crate would.

pub use commlib as messaging;

/// A message, of the one crate that derives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Pair {
    /// The first.
    pub first: u8,
    /// The second.
    pub second: u8,
}

/// Declares a service whose one method `swap` is ours: commlib is found through this crate, whoever calls the macro.
#[macro_export]
macro_rules! swapping_service {
    ($(#[$attr:meta])* $vis:vis $name:ident) => {
        $(#[$attr])*
        #[$crate::messaging::rpc_service(crate = $crate::messaging)]
        $vis trait $name {
            /// Swaps the two.
            async fn swap(&self, pair: $crate::Pair, #[rpc(default)] twice: bool) -> $crate::Pair;
        }
    };
}
