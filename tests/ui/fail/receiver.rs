//! Methods take `&self`.

#[commlib::rpc_service]
trait Service {
    async fn one(&mut self);
    async fn two(self);
    async fn three(self: std::sync::Arc<Self>);
    async fn four();
    async fn five(a: u8);
}

fn main() {}
