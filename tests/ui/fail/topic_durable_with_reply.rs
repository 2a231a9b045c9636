//! A durable topic keeps messages, it does not answer them.

#[commlib::topic]
trait Sensors {
    #[topic("bumper", durable)]
    async fn bumper(&self, hit: u8) -> Result<u8, std::io::Error>;
}

fn main() {}
