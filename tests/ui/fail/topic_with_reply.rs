//! Nothing comes back from a topic.

#[commlib::topic]
trait Topics {
    async fn sonar(&self, a: u8) -> u8;
}

fn main() {}
