//! A topic is published to, so it has no wildcards.

#[commlib::topic]
trait Topics {
    #[topic("sonar.*")]
    async fn one(&self, reading: u8);
    #[topic("sonar.#")]
    async fn two(&self, reading: u8);
}

fn main() {}
