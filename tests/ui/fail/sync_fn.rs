//! Methods are async.

#[commlib::rpc_service]
trait Service {
    fn call(&self) -> u8;
}

fn main() {}
