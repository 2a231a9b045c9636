//! Two conditional methods may share an address, but not in one build.

#[commlib::rpc_service]
trait Service {
    #[cfg(any())]
    async fn never(&self);
    #[cfg(any())]
    #[rpc(name = "never")]
    async fn neither(&self);
    async fn call(&self);
    #[cfg(not(any()))]
    #[rpc(name = "call")]
    async fn other(&self);
}

fn main() {}
