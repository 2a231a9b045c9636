//! Lint levels and `#[must_use]` on a method hold for the trait and for the client.
#![deny(warnings, clippy::pedantic)]

#[commlib::rpc_service]
trait Service {
    #[expect(non_snake_case, reason = "the name is given by others")]
    async fn addAll(&self, a: u8) -> u8;
    #[allow(clippy::too_many_arguments, reason = "the arguments are given by others")]
    #[rpc(name = "many")]
    async fn many(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> u8;
    #[must_use = "it costs a call"]
    async fn costly(&self) -> u8;
}

#[commlib::topic]
trait Topics {
    #[expect(non_snake_case, reason = "the name is given by others")]
    async fn hitWall(&self, a: u8);
}

pub(crate) fn main() {}
