//! A capture is a whole level.

#[commlib::topic]
trait Topics {
    #[topic("sonar-{a}")]
    async fn sonar(&self, a: u8, reading: u8);
}

fn main() {}
