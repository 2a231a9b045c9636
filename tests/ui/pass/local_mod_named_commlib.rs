//! A module named like the crate does not get in the way.

mod commlib {}

#[::commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8, ctx: &::commlib::RequestContext) -> u8;
}

#[::commlib::topic]
trait Topics {
    async fn call(&self, a: u8);
}

pub(crate) fn main() {}
