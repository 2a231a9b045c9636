//! Several `#[rpc]` lists on one method are one list.

#[commlib::rpc_service]
trait Clock {
    #[rpc(idempotent)]
    #[rpc(timeout = "2s")]
    #[commlib::rpc(name = "tell-time")]
    async fn now(
        &self,
        #[rpc(name = "tz")]
        #[rpc(default)]
        zone: String,
    ) -> u64;
}

pub(crate) fn main() {}
