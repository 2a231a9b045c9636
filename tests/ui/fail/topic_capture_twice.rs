//! A capture stands for one level.

#[commlib::topic]
trait Topics {
    #[topic("{a}.{a}")]
    async fn sonar(&self, a: u8, reading: u8);
}

fn main() {}
