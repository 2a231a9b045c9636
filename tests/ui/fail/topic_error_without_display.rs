//! Why a message was given up has to be said.

struct Quiet;

#[commlib::topic]
trait Sensors {
    #[topic("bumper", durable)]
    async fn bumper(&self, hit: u8) -> Result<(), Quiet>;
}

fn main() {}
