//! A subscription selects by the type of the capture.

#[commlib::topic]
trait Topics {
    #[topic("a.{side}")]
    async fn one(&self, side: u8, m: u8);
}

fn subscribe(node: &commlib::Node) {
    let _ = TopicsSubscriber::new(node).one(String::new());
}

fn main() {}
