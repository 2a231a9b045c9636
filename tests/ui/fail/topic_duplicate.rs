//! Two methods can't share a topic, whatever their captures are called.

#[commlib::topic]
trait Topics {
    #[topic("a.{b}")]
    async fn one(&self, b: u8, m: u8);
    #[topic("a.{c}")]
    async fn two(&self, c: u8, m: u8);
}

fn main() {}
