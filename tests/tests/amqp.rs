//! What is particular to RabbitMQ, against a real one.

use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::{RabbitMq, unique};

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

#[commlib::rpc_service(name = "amqp-calculator")]
trait Calculator {
    async fn add(&self, a: i64, b: i64) -> Sum;
    async fn div(&self, a: i64, b: i64) -> Result<i64, DivError>;
    #[rpc(oneway)]
    async fn reset(&self);
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> Sum {
        Sum { c: a + b }
    }
    async fn div(&self, a: i64, b: i64) -> Result<i64, DivError> {
        a.checked_div(b).ok_or(DivError::ByZero)
    }
    async fn reset(&self) {}
}

#[commlib::topic(prefix = "amqp-sensors")]
trait Sensors {
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: String, reading: Sum);
}

#[tokio::test]
async fn the_quickstart_of_the_design_works() {
    let broker = RabbitMq::shared().await;
    for setting in ["", "?reply=queue"] {
        let node = Node::connect(&format!("{}{setting}", broker.url()))
            .await
            .unwrap();
        let calc = CalculatorClient::new(&node);
        assert!(calc.add(1, 2).await.unwrap_err().is_no_responders());
        assert!(calc.reset().await.is_err());
        let server = node.serve(CalculatorServer::new(Calc)).await.unwrap();
        assert_eq!(calc.add(1, 2).await.unwrap(), Sum { c: 3 });
        assert!(matches!(
            calc.div(1, 0).await,
            Err(CallError::App(DivError::ByZero))
        ));
        calc.reset().await.unwrap();
        let many = (0..500).map(|a| {
            let calc = &calc;
            async move { assert_eq!(calc.add(a, 1).await.unwrap(), Sum { c: a + 1 }) }
        });
        futures_util::future::join_all(many).await;
        server.shutdown().await.unwrap();
        assert!(calc.add(1, 2).await.unwrap_err().is_no_responders());
        let mut all = SensorsSubscriber::new(&node).sonar(Any).await.unwrap();
        let publisher = SensorsPublisher::new(&node);
        let side = unique("side");
        publisher.sonar(side.clone(), Sum { c: 1 }).await.unwrap();
        let first = all.next().await.unwrap().unwrap();
        assert_eq!((first.captures, first.message), ((side,), Sum { c: 1 }));
        node.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}
