//! A topic carries a message.

#[commlib::topic]
trait Topics {
    async fn one(&self);
    #[topic("{a}")]
    async fn two(&self, a: u8);
}

fn main() {}
