//! For a reference, the message says which owned type to use.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: &str, b: &[Vec<u8>], c: &std::path::Path, d: &mut u64, e: Option<&str>) -> &str;
}

fn main() {}
