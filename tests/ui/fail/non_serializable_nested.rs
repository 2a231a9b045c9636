//! In a type of a type, the error is still at the type in the trait.

struct Plain;

#[commlib::rpc_service]
trait Service {
    #[rpc(body)]
    async fn call(&self, plains: Vec<Option<Plain>>);
}

fn main() {}
