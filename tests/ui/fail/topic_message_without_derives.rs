//! A message type without the derives is one error.

struct Plain;

#[commlib::topic]
trait Topics {
    async fn one(&self, plain: Plain);
}

fn main() {}
