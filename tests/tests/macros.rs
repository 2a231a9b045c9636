//! What generated code does at run time where the order or the absence of things matters: captures, contexts, defaults,
//! methods that are configured away, names that generated code uses itself.

use commlib::prelude::*;
use commlib::rpc::RpcClient;
use commlib::{Address, Contract};
use serde_json::{Value, json};
use tokio::sync::mpsc;

fn value(contract: &Contract) -> Value {
    serde_json::from_str(&contract.to_json()).expect("a contract is JSON")
}

#[commlib::topic(prefix = "house")]
trait House {
    /// The order of the arguments is not that of the levels.
    #[topic("{floor}.light.{room}")]
    async fn light(&self, room: String, on: bool, ctx: &MessageContext, floor: i8);
    async fn door(&self, open: bool);
}

struct Recorder(mpsc::UnboundedSender<(String, String, bool, i8)>);

impl House for Recorder {
    async fn light(&self, room: String, on: bool, ctx: &MessageContext, floor: i8) {
        let _ = self.0.send((ctx.topic().to_string(), room, on, floor));
    }
    async fn door(&self, _: bool) {}
}

/// Publisher and handler take arguments in the order of the trait; captures come in the order of the template.
#[tokio::test]
async fn captures_keep_their_places() {
    let node = Node::connect("memory://macros-captures").await.unwrap();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let _server = node.serve(HouseHandler::new(Recorder(sender))).await.unwrap();
    let mut all = HouseSubscriber::new(&node).light(Any, Any).await.unwrap();
    let mut upstairs = HouseSubscriber::new(&node).light(Any, 1).await.unwrap();
    let mut kitchens = HouseSubscriber::new(&node).light("kitchen", Any).await.unwrap();

    let publisher = HousePublisher::new(&node);
    publisher.light("kitchen".into(), true, -1).await.unwrap();
    publisher.light("bath".into(), false, 1).await.unwrap();

    let first = all.next().await.unwrap().unwrap();
    assert_eq!(
        (first.captures, first.message),
        ((-1, "kitchen".to_owned()), true)
    );
    assert_eq!(
        upstairs.next().await.unwrap().unwrap().captures,
        (1, "bath".to_owned())
    );
    assert_eq!(
        kitchens.next().await.unwrap().unwrap().captures,
        (-1, "kitchen".to_owned())
    );
    assert_eq!(
        handled.recv().await.unwrap(),
        ("house.-1.light.kitchen".into(), "kitchen".into(), true, -1)
    );
    assert_eq!(
        handled.recv().await.unwrap(),
        ("house.1.light.bath".into(), "bath".into(), false, 1)
    );
}

type Ctx = RequestContext;

#[commlib::rpc_service]
trait Odd {
    /// Each name is one that generated code uses for something of its own.
    #[allow(clippy::too_many_arguments, reason = "each is a name to try")]
    async fn names(
        &self,
        ctx: u8,
        body: u8,
        method: u8,
        self_: u8,
        #[rpc(context)] real: &Ctx,
        reply: u8,
        request: u8,
        inner: u8,
    ) -> (Vec<u8>, String);
    #[rpc(body)]
    async fn whole(&self, ctx: &RequestContext, body: Vec<u8>) -> usize;
    async fn defaulted(
        &self,
        a: u8,
        /// How often.
        #[rpc(default)]
        times: u8,
        note: Option<String>,
    ) -> u8 {
        let _ = note;
        a + times
    }
    #[cfg(any())]
    async fn gone(&self, a: DoesNotExist) -> NorDoesThis;
    #[rpc(name = "double")]
    async fn call(&self, a: u8) -> Result<u8, TooBig> {
        a.checked_mul(2).ok_or(TooBig { a })
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{a} is too big")]
struct TooBig {
    a: u8,
}

struct Handler;

impl Odd for Handler {
    async fn names(
        &self,
        ctx: u8,
        body: u8,
        method: u8,
        self_: u8,
        real: &Ctx,
        reply: u8,
        request: u8,
        inner: u8,
    ) -> (Vec<u8>, String) {
        (
            vec![ctx, body, method, self_, reply, request, inner],
            real.address().to_string(),
        )
    }
    async fn whole(&self, ctx: &RequestContext, body: Vec<u8>) -> usize {
        assert_eq!(ctx.header("kind"), Some("test"));
        body.len()
    }
}

#[tokio::test]
async fn names_contexts_and_default_bodies() {
    let node = Node::connect("memory://macros-odd").await.unwrap();
    let _server = node.serve(OddServer::new(Handler)).await.unwrap();
    let client = OddClient::new(&node).clone();
    assert_eq!(
        client.names(1, 2, 3, 4, 5, 6, 7).await.unwrap(),
        (vec![1, 2, 3, 4, 5, 6, 7], "odd.names".into())
    );
    assert_eq!(
        client.whole(vec![1, 2, 3]).header("kind", "test").await.unwrap(),
        3
    );
    assert_eq!(client.defaulted(1, 2, None).await.unwrap(), 3);
    assert_eq!(client.call(4).await.unwrap(), 8);
    match client.call(200).await {
        Err(CallError::App(error)) => assert_eq!(error, TooBig { a: 200 }),
        other => panic!("{other:?}"),
    }
    assert_eq!(format!("{client:?}"), "OddClient { .. }");
}

#[tokio::test]
async fn what_may_be_absent_and_what_not() {
    let node = Node::connect("memory://macros-absent").await.unwrap();
    let _server = node.serve(OddServer::new(Handler)).await.unwrap();
    let call = async |body: Value| {
        RpcClient::new(&node)
            .call_untyped(Address::new("odd.defaulted").unwrap(), &body)
            .await
    };
    assert_eq!(call(json!({"a": 1})).await.unwrap(), json!(1));
    assert_eq!(
        call(json!({"a": 1, "times": 2, "note": null, "more": []}))
            .await
            .unwrap(),
        json!(3)
    );
    for (body, said) in [
        (json!({}), "missing field `a`"),
        (json!({"a": 1, "times": null}), "null"),
        (json!({"a": -1}), "expected u8"),
        (json!("a"), "string"),
        (json!([1, 2, null]), "an array instead of an object"),
        (json!([]), "an array instead of an object"),
    ] {
        let error = call(body.clone()).await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::InvalidArgument), "{body}: {error}");
        assert!(error.to_string().contains(said), "{body}: {error}");
    }
}

#[test]
fn contracts_omit_what_does_not_travel() {
    let contract = value(&OddClient::contract());
    let addresses = contract["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| &method["address"])
        .collect::<Vec<_>>();
    assert_eq!(
        addresses,
        ["odd.names", "odd.whole", "odd.defaulted", "odd.double"]
    );
    let defaulted = value(&OddClient::contract())["methods"][2]["request"].clone();
    let request = match defaulted.get("$ref").and_then(Value::as_str) {
        Some(reference) => contract["$defs"][reference.trim_start_matches("#/$defs/")].clone(),
        None => defaulted,
    };
    assert_eq!(request["required"], json!(["a"]), "{request}");
    assert_eq!(request["properties"]["times"]["description"], "How often.");
    assert_eq!(request["properties"]["times"]["default"], 0);
    assert_eq!(request["properties"].as_object().unwrap().len(), 3);
    let text = contract.to_string();
    assert!(!text.contains("real") && !text.contains("gone"), "{text}");
}
