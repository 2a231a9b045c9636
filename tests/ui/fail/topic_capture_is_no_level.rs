//! A captured argument can be one level of an address.

struct Side;

#[commlib::topic]
trait Topics {
    #[topic("a.{side}")]
    async fn one(&self, side: Side, m: u8);
}

fn main() {}
