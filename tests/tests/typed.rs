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
        .timeout(Duration::from_secs(2))
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Order {
    item: String,
    count: u32,
}

/// Takes orders.
#[commlib::rpc_service]
trait OrderDesk {
    /// Takes an order
    /// as it is.
    #[rpc(body, timeout = "1m")]
    async fn place(&self, order: Order) -> u32;
    #[rpc(name = "find")]
    async fn find_orders(
        &self,
        #[rpc(name = "itemName")] item: String,
        #[rpc(default)] limit: u32,
        after: Option<u64>,
    ) -> (String, u32, Option<u64>);
    async fn r#move(&self, r#type: String);
    #[deprecated = "use `place`"]
    async fn old(&self);
}

struct Desk;

impl OrderDesk for Desk {
    async fn place(&self, order: Order) -> u32 {
        order.count
    }
    async fn find_orders(&self, item: String, limit: u32, after: Option<u64>) -> (String, u32, Option<u64>) {
        (item, limit, after)
    }
    async fn r#move(&self, _: String) {}
    async fn old(&self) {}
}

/// What a peer of another language sees: addresses and bodies.
#[tokio::test]
async fn attributes_shape_the_wire() {
    use commlib::rpc::RpcClient;
    use serde_json::json;

    let node = Node::connect(&format!("memory://{}", unique("typed")))
        .await
        .unwrap();
    node.serve(OrderDeskServer::new(Desk)).await.unwrap();
    let desk = OrderDeskClient::new(&node);
    let order = Order {
        item: "nut".into(),
        count: 3,
    };
    assert_eq!(desk.place(order).await.unwrap(), 3);
    assert_eq!(
        desk.find_orders("nut".into(), 7, Some(1)).await.unwrap(),
        ("nut".into(), 7, Some(1))
    );
    desk.r#move("x".into()).await.unwrap();

    let call = async |method: &str, body| {
        let address = commlib::Address::new(format!("order_desk.{method}")).unwrap();
        RpcClient::new(&node).call_untyped(address, &body).await
    };
    assert_eq!(
        call("place", json!({"item": "nut", "count": 3})).await.unwrap(),
        json!(3)
    );
    assert_eq!(
        call("find", json!({"itemName": "nut"})).await.unwrap(),
        json!(["nut", 0, null])
    );
    assert_eq!(call("move", json!({"type": "x"})).await.unwrap(), json!(null));
    assert!(
        call("find", json!({"item": "nut"}))
            .await
            .unwrap_err()
            .to_string()
            .contains("itemName")
    );
}

#[test]
fn a_contract_says_what_the_trait_promises() {
    let contract: serde_json::Value = serde_json::from_str(&OrderDeskClient::contract().to_json()).unwrap();
    assert_eq!(
        (&contract["kind"], &contract["name"]),
        (&"rpc".into(), &"order_desk".into())
    );
    assert_eq!(contract["description"], "Takes orders.");
    let method = |name: &str| {
        let methods = contract["methods"].as_array().unwrap();
        methods
            .iter()
            .find(|method| method["name"] == name)
            .unwrap_or_else(|| panic!("no method {name}"))
            .clone()
    };
    let place = method("place");
    assert_eq!(place["description"], "Takes an order\nas it is.");
    assert_eq!(
        (&place["request"]["$ref"], &place["timeout_ms"]),
        (&"#/$defs/Order".into(), &60_000.into())
    );
    assert_eq!(contract["$defs"]["Order"]["properties"]["item"]["type"], "string");
    let find = method("find");
    assert_eq!(find["address"], "order_desk.find");
    let text = contract.to_string();
    assert!(
        text.contains("itemName") && !text.contains("find_orders"),
        "{text}"
    );
    assert!(method("move").get("reply").is_none());
    assert_eq!(
        OrderDeskClient::contract().to_json(),
        OrderDeskServer::<Desk>::contract().to_json()
    );

    let contract: serde_json::Value = serde_json::from_str(&SensorsPublisher::contract().to_json()).unwrap();
    assert_eq!(contract["topics"][0]["address"], "sensors.sonar.{side}");
    assert_eq!(contract["topics"][0]["levels"][0]["name"], "side");
    assert_eq!(
        contract["$defs"]["Side"]["enum"],
        serde_json::json!(["front", "rear"])
    );
}

mod later {
    /// The first service of the name `calculator` has another method.
    #[commlib::rpc_service(name = "calculator")]
    pub(crate) trait Abacus {
        async fn add(&self, a: i64, b: i64) -> i64;
        async fn halve(&self, a: i64) -> i64;
    }

    /// No method in common.
    #[commlib::rpc_service(name = "calculator")]
    pub(crate) trait Extras {
        async fn double(&self, a: i64) -> i64;
    }

    pub(crate) struct Wood;

    impl Abacus for Wood {
        async fn add(&self, a: i64, b: i64) -> i64 {
            a + b
        }
        async fn halve(&self, a: i64) -> i64 {
            a / 2
        }
    }

    impl Extras for Wood {
        async fn double(&self, a: i64) -> i64 {
            2 * a
        }
    }
}

#[tokio::test]
async fn one_node_serves_no_two_contracts_that_share_a_method() {
    use later::{AbacusClient, AbacusServer, ExtrasClient, ExtrasServer, Wood};
    let node = Node::connect(&format!("memory://{}", unique("typed")))
        .await
        .unwrap();
    let first = node.serve(CalculatorServer::new(Calc)).await.unwrap();
    let again = node.serve(CalculatorServer::new(Calc)).await.unwrap();
    let _extras = node.serve(ExtrasServer::new(Wood)).await.unwrap();
    assert_eq!(ExtrasClient::new(&node).double(4).await.unwrap(), 8);
    let error = node.serve(AbacusServer::new(Wood)).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::InvalidArgument));
    let text = error.to_string();
    assert!(text.contains("`calculator`") && text.contains("`add`"), "{text}");
    // What was shut down is no obstacle.
    first.shutdown().await.unwrap();
    again.shutdown().await.unwrap();
    let _abacus = node.serve(AbacusServer::new(Wood)).await.unwrap();
    assert_eq!(AbacusClient::new(&node).halve(4).await.unwrap(), 2);
}
