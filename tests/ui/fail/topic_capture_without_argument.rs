//! Each capture is an argument.

#[commlib::topic]
trait Topics {
    #[topic("sonar.{side}")]
    async fn sonar(&self, reading: u8);
}

fn main() {}
