//! `#[rpc]` and `#[topic]` mean nothing outside a trait of ours, and say so.

use commlib::{rpc, topic};

trait Plain {
    #[rpc(timeout = "2s")]
    async fn call(&self);
    #[topic("a.b")]
    async fn told(&self, m: u8);
}

#[rpc]
struct Item;

fn main() {}
