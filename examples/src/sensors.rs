//! The sensors of a robot: topics with a level that is chosen when publishing.

use commlib::prelude::*;

/// What a sonar measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sonar {
    /// Distance to the next obstacle, in m.
    pub range: f64,
    /// Horizontal field of view, in degrees.
    pub hfov: f64,
    /// Vertical field of view, in degrees.
    pub vfov: f64,
    /// Counts the readings of one publisher, from 0.
    pub seq: u64,
}

/// What the sensors of a robot measure.
#[commlib::topic(prefix = "sensors")]
pub trait Sensors {
    /// A reading of the sonar on one side: front, rear, or what the robot has.
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: String, reading: Sonar);
}
