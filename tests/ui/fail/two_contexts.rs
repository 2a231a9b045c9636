//! A method has one context.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: &commlib::RequestContext, b: &commlib::RequestContext);
}

fn main() {}
