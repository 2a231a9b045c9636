//! A handler whose future can't be sent to another thread is an error at the handler.

use std::rc::Rc;

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: u8) -> u8;
}

struct Handler;

impl Service for Handler {
    async fn call(&self, a: u8) -> u8 {
        let shared = Rc::new(a);
        std::future::ready(()).await;
        *shared
    }
}

fn main() {}
