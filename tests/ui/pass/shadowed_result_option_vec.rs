//! Names of the prelude may mean something else where the trait stands.
#![allow(dead_code, non_camel_case_types)]

struct Result;
struct Option;
struct Vec;
struct Some;
struct None;
struct Ok;
struct Err;
struct Box;
struct String;
struct Send;
struct Sync;
struct Clone;
struct Default;
struct Debug;
struct Sized;
struct Future;
struct S;
mod std {}
mod core {}
mod serde {}
mod schemars {}

#[commlib::rpc_service]
trait Service {
    #[rpc(timeout = "1s")]
    async fn call(
        &self,
        a: ::std::vec::Vec<u8>,
        #[rpc(default)] b: ::std::option::Option<u8>,
    ) -> ::std::result::Result<u8, commlib::NoError>;
    async fn plain(&self);
}

#[commlib::topic]
trait Topics {
    #[topic("a.{b}")]
    async fn call(&self, b: u8, a: u8);
}

pub(crate) fn main() {}
