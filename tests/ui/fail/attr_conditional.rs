//! Options of a method are the same in every build.

#[commlib::rpc_service]
trait Service {
    #[cfg_attr(unix, rpc(timeout = "2s"))]
    async fn call(&self);
}

fn main() {}
