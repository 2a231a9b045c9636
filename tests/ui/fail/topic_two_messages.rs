//! A topic carries one message.

#[commlib::topic]
trait Topics {
    async fn sonar(&self, a: u8, b: u8);
}

fn main() {}
