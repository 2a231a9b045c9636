//! Handlers of durable topics may fail, with any error that can be displayed.

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Bump;

#[commlib::topic(prefix = "sensors")]
trait Sensors {
    #[topic("bumper", durable)]
    async fn bumper(&self, hit: Bump);
    #[topic("{side}.wall", durable)]
    async fn wall(&self, side: u8, hit: Bump) -> Result<(), std::io::Error>;
    #[topic(durable)]
    async fn door(&self, hit: Bump) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
    #[topic(durable)]
    async fn window(&self, hit: Bump) -> std::io::Result<()>;
}

struct Robot;

impl Sensors for Robot {
    async fn bumper(&self, _: Bump) {}
    async fn wall(&self, _: u8, _: Bump) -> Result<(), std::io::Error> {
        Ok(())
    }
    async fn door(&self, _: Bump) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("no door")?
    }
    async fn window(&self, _: Bump) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn main() {
    let _ = SensorsHandler::new(Robot);
}
