//! A crate path that leads nowhere is reported at the path.

#[commlib::rpc_service(crate = not_there)]
trait Service {
    async fn call(&self, a: u8) -> u8;
}

fn main() {}
