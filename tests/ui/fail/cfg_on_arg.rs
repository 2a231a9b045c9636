//! An argument can't be conditional.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, #[cfg(unix)] a: u8);
}

fn main() {}
