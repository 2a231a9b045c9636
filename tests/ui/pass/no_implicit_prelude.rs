//! Generated code leans on no prelude. (The derives of serde and schemars do, so the types here are of the standard library.)
#![no_implicit_prelude]

#[::commlib::rpc_service(name = "s")]
trait Service {
    #[rpc(timeout = "1s", idempotent)]
    async fn call(
        &self,
        a: ::std::string::String,
        #[rpc(default)] b: ::std::option::Option<u8>,
    ) -> ::std::result::Result<u8, ::commlib::NoError>;
    async fn with_context(&self, ctx: &::commlib::RequestContext) -> u8;
    #[rpc(oneway)]
    async fn tell(&self) {}
    #[rpc(body)]
    async fn whole(&self, a: u8) -> ::std::vec::Vec<u8> {
        ::std::vec![a]
    }
}

#[::commlib::topic]
trait Topics {
    #[topic("a.{b}")]
    async fn call(&self, b: ::std::string::String, a: u8, ctx: &::commlib::MessageContext);
    async fn plain(&self, a: u8);
}

pub(crate) fn main() {}
