//! The main job of a user, on the in-process bus: a trait served, called, published to and subscribed to.

use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::unique;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Sum {
    c: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum DivError {
    ByZero,
}

impl std::fmt::Display for DivError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("division by zero")
    }
}

impl std::error::Error for DivError {}

#[commlib::rpc_service(name = "calculator")]
trait Calculator {
    #[rpc(idempotent)]
    async fn add(&self, a: i64, b: i64) -> Sum;
    #[rpc(timeout = "2s")]
    async fn div(&self, ctx: &RequestContext, a: i64, b: i64) -> Result<i64, DivError>;
    #[rpc(oneway)]
    async fn reset(&self);
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> Sum {
        Sum { c: a + b }
    }
    async fn div(&self, ctx: &RequestContext, a: i64, b: i64) -> Result<i64, DivError> {
        assert!(ctx.time_left() <= Duration::from_secs(2));
        a.checked_div(b).ok_or(DivError::ByZero)
    }
    async fn reset(&self) {}
}

#[tokio::test]
async fn the_quickstart_of_the_design_works() {
    let node = Node::connect(&format!("memory://{}", unique("typed")))
        .await
        .unwrap();
    let server = node.serve(CalculatorServer::new(Calc)).await.unwrap();
    let calc = CalculatorClient::new(&node);
    assert_eq!(calc.add(1, 2).await.unwrap(), Sum { c: 3 });
    let quotient = calc
        .div(6, 3)
        .timeout(Duration::from_millis(200))
        .header("tenant", "x")
        .await;
    assert_eq!(quotient.unwrap(), 2);
    assert!(matches!(
        calc.div(1, 0).await,
        Err(CallError::App(DivError::ByZero))
    ));
    calc.reset().await.unwrap();
    server.shutdown().await.unwrap();
    assert!(calc.add(1, 2).await.unwrap_err().is_no_responders());
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Side {
    Front,
    Rear,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Sonar {
    range: f64,
}

#[commlib::topic(prefix = "sensors")]
trait Sensors {
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: Side, reading: Sonar);
}

#[tokio::test]
async fn topics_reach_streams_with_their_levels() {
    let node = Node::connect(&format!("memory://{}", unique("typed")))
        .await
        .unwrap();
    let publisher = SensorsPublisher::new(&node);
    let mut all = SensorsSubscriber::new(&node).sonar(Any).await.unwrap();
    let mut rear = SensorsSubscriber::new(&node).sonar(Side::Rear).await.unwrap();
    publisher.sonar(Side::Front, Sonar { range: 1.5 }).await.unwrap();
    publisher.sonar(Side::Rear, Sonar { range: 2.5 }).await.unwrap();
    let first = all.next().await.unwrap().unwrap();
    assert_eq!(
        (first.captures, first.message),
        ((Side::Front,), Sonar { range: 1.5 })
    );
    assert_eq!(first.topic, "sensors.sonar.front");
    assert_eq!(rear.next().await.unwrap().unwrap().captures, (Side::Rear,));
}
