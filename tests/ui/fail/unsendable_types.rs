//! Neither functions, pointers nor `!` travel.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: fn(u8), b: *const u8) -> !;
}

fn main() {}
