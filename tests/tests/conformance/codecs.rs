//! Bodies as MessagePack: beside JSON on the same broker, known by their content type, refused where it is unknown.

use std::sync::Arc;

use commlib::middleware::{BoxFuture, Invocation, Kind, Middleware, Next, Outcome};
use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{CallError, Codec, Execution, Failure, Node, Pattern, StatusCode};
use commlib_tests::eventually;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::contract::{
    Collector, DivError, ProbeClient, Reading, SensorsHandler, SensorsPublisher, SensorsSubscriber, Side, Sum,
};
use crate::durable::{OrdersHandler, OrdersPublisher, Refusing};
use crate::raw::Answer;
use crate::world::{SOON, World, serve_on};

/// Notes the codec of what goes out and of what comes back.
#[derive(Clone, Default)]
struct Codecs(Arc<Mutex<Vec<Codec>>>);

impl Codecs {
    fn take(&self) -> Vec<Codec> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Middleware for Codecs {
    fn handle<'a>(&'a self, invocation: Invocation, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let answered = invocation.kind == Kind::Call;
            self.0.lock().push(invocation.codec);
            let outcome = next.run(invocation).await;
            match &outcome {
                Ok(reply) if answered => self.0.lock().push(reply.codec),
                Err(Failure::App(error)) => self.0.lock().push(error.codec),
                _ => {}
            }
            outcome
        })
    }
}

async fn message_pack(world: &World) -> Node {
    world.connect(world.builder().codec(Codec::MessagePack)).await
}

/// A client that writes one codec calls servers whose own calls are in the other.
async fn calls(world: &World, client: Codec, server: Codec) {
    let served = serve_on(world.connect(world.builder().codec(server)).await, 4).await;
    let codecs = Codecs::default();
    let builder = world.builder().codec(client).client_middleware(codecs.clone());
    let node = world.connect(builder).await;
    // Behind middleware, and on the short way without.
    for probe in [
        ProbeClient::new(&node),
        ProbeClient::new(&world.connect(world.builder().codec(client)).await),
    ] {
        assert_eq!(probe.add(-1, i64::MAX).await.unwrap(), Sum { c: i64::MAX - 1 });
        let error = probe.div(1, 0).await.unwrap_err();
        assert!(matches!(error, CallError::App(DivError::ByZero)), "{error:?}");
        let error = probe.div(1001, 1).await.unwrap_err();
        let expected = CallError::<DivError>::App(DivError::TooLarge { dividend: 1001 });
        assert_eq!(format!("{error:?}"), format!("{expected:?}"));
        let echo = probe
            .echo("a\0\u{e9}".to_owned())
            .header("tenant", "x")
            .await
            .unwrap();
        assert_eq!((&*echo["text"], &*echo["tenant"]), ("a\0\u{e9}", "x"));
        assert_eq!(probe.bytes(70_000).await.unwrap().len(), 70_000);
        let error = probe.panic().await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::Internal), "{error}");
    }
    // Each call and its reply; of the last there is only a status.
    assert_eq!(codecs.take(), [client; 11]);
    ProbeClient::new(&node).note("noted".to_owned()).await.unwrap();
    eventually(SOON, || async { *served.seen.notes.lock() == ["noted"] }).await;
}

pub async fn a_server_answers_in_the_codec_of_the_call(world: World) {
    calls(&world, Codec::MessagePack, Codec::Json).await;
}

pub async fn a_server_of_message_pack_answers_json_in_json(world: World) {
    calls(&world, Codec::Json, Codec::MessagePack).await;
}

pub async fn subscribers_read_every_codec(world: World) {
    let node = world.node().await;
    let mut typed = SensorsSubscriber::new(&node).sonar(Any).await.unwrap();
    let mut untyped = TopicSubscriber::new(&node)
        .pattern::<serde_json::Value>(Pattern::new("sensors.#").unwrap())
        .await
        .unwrap();
    let collector = Collector::default();
    node.serve(SensorsHandler::new(collector.clone()))
        .group("collectors")
        .await
        .unwrap();
    for (seq, publishing) in [(1, message_pack(&world).await), (2, world.node().await)] {
        let publisher = SensorsPublisher::new(&publishing);
        publisher.sonar(Side::Rear, Reading { seq }).await.unwrap();
        let received = timeout(SOON, typed.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (received.message, received.captures),
            (Reading { seq }, (Side::Rear,))
        );
        let received = timeout(SOON, untyped.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(received.message, serde_json::json!({ "seq": seq }));
    }
    eventually(SOON, || async {
        *collector.readings.lock() == [(Side::Rear, 1), (Side::Rear, 2)]
    })
    .await;
}

pub async fn a_dead_letter_keeps_its_codec(world: World) {
    let node = world.node().await;
    let handled = Arc::<Mutex<Vec<u64>>>::default();
    let serve = || {
        let handled = Arc::clone(&handled);
        node.serve(OrdersHandler::new(Refusing { handled }))
            .group("clerks")
            .attempts(1)
    };
    let handle = serve().await.unwrap();
    OrdersPublisher::new(&message_pack(&world).await)
        .placed(Reading { seq: 7 })
        .await
        .unwrap();
    let letters = node.dead_letters("clerks");
    let letter = eventually(SOON, || async { letters.list(10).await.unwrap().pop() }).await;
    assert_eq!(letter.content_type.as_deref(), Some("application/msgpack"));
    assert_eq!(letter.body.as_ref(), b"\x81\xa3seq\x07");
    handle.shutdown().await.unwrap();
    handled.lock().clear();
    assert!(letters.resend(&letter.id).await.unwrap());
    serve().await.unwrap();
    eventually(SOON, || async { *handled.lock() == [7] }).await;
}

fn refused(answer: &Answer, reason: &str) {
    assert_eq!(answer.error.as_deref(), Some("invalid_argument"), "{answer:?}");
    assert_eq!(answer.execution, "not_run", "{answer:?}");
    assert!(answer.message.contains(reason), "{answer:?}");
}

pub async fn an_unknown_content_type_is_refused(world: World) {
    let (served, raw) = (world.serve().await, world.raw().await);
    let add = world.address("probe.add");
    for body in [&b"<a/>"[..], b"{\"a\":1,\"b\":2}", b"\x82\xa1a\x01\xa1b\x02", b""] {
        let answer = raw.call_as(&add, "application/xml", body).await;
        refused(&answer, "\"application/xml\"");
    }
    assert_eq!(served.seen.runs(), 0);
    let node = world.node().await;
    let mut readings = SensorsSubscriber::new(&node).bumper().await.unwrap();
    let topic = world.address("sensors.bumper");
    raw.publish_as(&topic, "application/xml", b"{\"seq\":1}").await;
    let notice = timeout(SOON, readings.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(notice, RecvError::Decode { .. }), "{notice:?}");
    assert!(notice.to_string().contains("\"application/xml\""), "{notice}");
}

pub async fn bad_message_pack_is_an_invalid_argument(world: World) {
    let (served, raw) = (world.serve().await, world.raw().await);
    let add = world.address("probe.add");
    let good = b"\x82\xa1a\x01\xa1b\x02";
    let nested = [&b"\x83\xa1x"[..], &[0x91; 100_000], b"\xc0", &good[1..]].concat();
    for (what, body, reason) in [
        ("nothing", &b""[..], ""),
        ("JSON", b"{\"a\":1,\"b\":2}", ""),
        ("by position", b"\x92\x01\x02", "array instead of an object"),
        ("a number", b"\x07", ""),
        ("a missing argument", b"\x81\xa1a\x01", "missing field `b`"),
        ("the wrong type", b"\x82\xa1a\xa11\xa1b\x02", ""),
        ("cut short", &good[..6], "ends too early"),
        ("more bytes", b"\x82\xa1a\x01\xa1b\x02\x00", "more bytes"),
        (
            "a map as long as it says",
            b"\xdf\xff\xff\xff\xff\xa1a\x01",
            "ends too early",
        ),
        (
            "a text as long as it says",
            b"\x81\xdb\xff\xff\xff\xffa",
            "ends too early",
        ),
        ("deep nesting", &nested, "64 deep"),
    ] {
        let answer = raw.call_as(&add, "application/msgpack", body).await;
        refused(&answer, reason);
        assert_eq!(served.seen.runs(), 0, "{what}");
    }
    // What begins like an envelope of MessagePack, and is none.
    for item in [
        &b"\x80"[..],
        b"\x82\xa4meta",
        b"\x81\xa4data\xc4\x00",
        b"\x81\xa4meta\x07",
        &nested,
    ] {
        raw.push(&add, item).await;
        raw.publish(&world.address("sensors.bumper"), item).await;
    }
    let probe = ProbeClient::new(&message_pack(&world).await);
    assert_eq!(probe.add(1, 2).await.unwrap(), Sum { c: 3 });
    assert_eq!(served.seen.runs(), 1);
}

pub async fn message_pack_over_the_servers_limit_is_refused(world: World) {
    let node = world.connect(world.builder().max_body(10_000)).await;
    let _served = serve_on(node, 2).await;
    let probe = ProbeClient::new(&message_pack(&world).await);
    assert_eq!(probe.echo("x".repeat(9_000)).await.unwrap()["text"].len(), 9_000);
    let error = probe.echo("x".repeat(200_000)).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
    // And a reply that is over it.
    let error = probe.bytes(20_000).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
}
