//! The macros work on what a `macro_rules!` macro writes, whichever side a name comes from.

macro_rules! service {
    ($name:ident, $method:ident, $arg:ident: $ty:ty => $reply:ty, $unit:ty) => {
        #[commlib::rpc_service]
        trait $name {
            async fn $method(&self, $arg: $ty, ours: $ty) -> $reply;
            async fn fixed(&self, ours: u8) -> u8 {
                let doubled = self.twice(ours).await;
                doubled + 1
            }
            async fn twice(&self, ours: u8) -> u8 {
                ours * 2
            }
            #[rpc(oneway)]
            async fn tell(&self) -> $unit;
            #[rpc(body)]
            async fn whole(&self, $arg: $ty);
        }
    };
}

macro_rules! topics {
    ($name:ident, $topic:literal, $capture:ident, $ty:ty) => {
        #[commlib::topic(prefix = "a")]
        trait $name {
            #[topic($topic)]
            async fn told(&self, $capture: u8, message: $ty);
        }
    };
}

macro_rules! with_crate {
    ($krate:path, $name:ident) => {
        #[commlib::rpc_service(crate = $krate)]
        trait $name {
            async fn call(&self, a: u8, #[rpc(default)] b: u8) -> u8;
        }
    };
}

mod reexports {
    pub(crate) use commlib as messaging;
}

service!(One, add, a: u8 => u8, ());
service!(Two, add, a: Vec<Option<u8>> => Result<u8, commlib::NoError>, ());
topics!(Three, "b.{c}", c, Vec<u8>);
with_crate!(self::reexports::messaging, Four);

pub(crate) fn main() {
    service!(Five, add, a: u8 => u8, ());
}
