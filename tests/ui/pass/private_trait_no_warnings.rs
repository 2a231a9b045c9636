//! A private trait, none of whose generated items is used, gives no warning.
#![deny(
    warnings,
    unreachable_pub,
    missing_debug_implementations,
    missing_copy_implementations
)]
#![deny(
    unused,
    single_use_lifetimes,
    unused_qualifications,
    unused_lifetimes,
    let_underscore_drop
)]
#![deny(rust_2018_idioms, nonstandard_style, trivial_casts, unit_bindings)]

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8, #[rpc(default)] b: u8, ctx: &commlib::RequestContext) -> u8;
    async fn nothing(&self);
    async fn explicit_nothing(&self) -> ();
    #[rpc(oneway)]
    async fn tell(&self, _unused: u8) {}
}

#[commlib::topic]
trait Topics {
    #[topic("a.{b}")]
    async fn told(&self, a: u8, b: u8, ctx: &commlib::MessageContext);
    async fn plain(&self, a: u8);
}

#[commlib::rpc_service]
trait Empty {}

#[commlib::topic]
trait NoTopics {}

mod inner {
    #[commlib::rpc_service]
    pub(super) trait Service {
        async fn call(&self, a: u8) -> u8;
    }
}

pub(crate) fn main() {}
