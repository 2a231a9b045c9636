//! Our attributes go on methods and arguments only.

#[commlib::rpc_service]
trait Service {
    #[rpc(name = "a")]
    const A: u8;
}

fn main() {}
