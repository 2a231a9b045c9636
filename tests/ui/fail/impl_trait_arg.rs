//! A message has one concrete type.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: impl Into<String>) -> impl ToString;
}

fn main() {}
