//! An argument is a name, as it is a key of the message.

#[commlib::rpc_service]
trait Service {
    async fn call(&self, (a, b): (u8, u8), _: u8);
    async fn with_body(&self, (a, b): (u8, u8), mut c: u8) -> u8 {
        c += 1;
        a + b + c
    }
}

fn main() {}
