//! A type that does not exist is not reported for each use in generated code.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: Missing) -> Gone;
}

fn main() {}
