//! Compressed bodies: both ways, of every kind of message, and bounded.

use commlib::topic::{RecvError, TopicSubscriber};
use commlib::{Codec, Compression, Execution, Limits, Pattern, StatusCode};
use commlib_tests::eventually;
use serde_json::Value;
use tokio::time::timeout;

use crate::contract::{ProbeClient, Sum};
use crate::world::{SOON, World, serve_on};

const BOTH: [Compression; 2] = [Compression::Zlib, Compression::Zstd];

pub async fn bodies_are_compressed_both_ways(world: World) {
    // Neither side takes more than this at once, so that what is larger can only come compressed.
    let narrow = Limits::new().body_in(10_000);
    let served = serve_on(world.connect(world.builder().limits(narrow.clone())).await, 4).await;
    let text = "hello, world; ".repeat(10_000);
    for compression in BOTH {
        for codec in [Codec::Json, Codec::MessagePack] {
            let builder = world.builder().limits(narrow.clone()).codec(codec);
            let probe = ProbeClient::new(&world.connect(builder.compression(compression)).await);
            let echo = probe.echo(text.clone()).header("tenant", "x").await.unwrap();
            assert_eq!((&echo["text"], &*echo["tenant"]), (&text, "x"));
            assert_eq!(probe.add(1, 2).await.unwrap(), Sum { c: 3 });
            probe.note(text.clone()).await.unwrap();
        }
    }
    let plain = ProbeClient::new(&world.connect(world.builder().limits(narrow)).await);
    let error = plain.echo(text.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
    eventually(SOON, || async { served.seen.notes.lock().len() == 4 }).await;
    assert!(served.seen.notes.lock().iter().all(|note| *note == text));
}

pub async fn topic_messages_are_compressed(world: World) {
    let node = world
        .connect(world.builder().limits(Limits::new().body_in(10_000)))
        .await;
    let mut values = TopicSubscriber::new(&node)
        .pattern::<Value>(Pattern::new("sensors.#").unwrap())
        .await
        .unwrap();
    let text = "hello, world; ".repeat(10_000);
    for compression in BOTH {
        let node = world.connect(world.builder().compression(compression)).await;
        TextsPublisher::new(&node).said(text.clone()).await.unwrap();
        let received = timeout(SOON, values.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(received.message, Value::from(text.as_str()));
    }
}

#[commlib::topic(prefix = "sensors")]
pub trait Texts {
    async fn said(&self, text: String);
}

pub async fn an_unknown_encoding_is_refused(world: World) {
    let served = world.serve().await;
    let (raw, add) = (world.raw().await, world.address("probe.add"));
    for (encoding, body, reason) in [
        ("gzip", &br#"{"a":1,"b":2}"#[..], "\"gzip\""),
        ("zlib", br#"{"a":1,"b":2}"#, "no sound zlib"),
        ("zstd", br#"{"a":1,"b":2}"#, "no sound zstd"),
        ("zlib", b"", "no sound zlib"),
    ] {
        let answer = raw.call_encoded(&add, encoding, body).await;
        assert_eq!(answer.error.as_deref(), Some("invalid_argument"), "{answer:?}");
        assert_eq!(answer.execution, "not_run", "{answer:?}");
        assert!(answer.message.contains(reason), "{answer:?}");
    }
    // Python's `zlib.compress(b'{"a":1,"b":2}')`.
    let packed = b"\x78\x9c\xab\x56\x4a\x54\xb2\x32\xd4\x51\x4a\x52\xb2\x32\xaa\x05\x00\x16\xf6\x03\x47";
    let answer = raw.call_encoded(&add, "zlib", packed).await;
    assert_eq!(
        (answer.error.as_deref(), &answer.data["c"]),
        (None, &3.into()),
        "{answer:?}"
    );
    assert_eq!(served.seen.runs(), 1);
}

pub async fn what_unpacks_to_too_much_is_refused(world: World) {
    let limits = Limits::new().inflated(1_000_000);
    let _served = serve_on(world.connect(world.builder().limits(limits)).await, 4).await;
    for compression in BOTH {
        let builder = world
            .builder()
            .limits(Limits::new().body(2_000_000))
            .compression(compression);
        let probe = ProbeClient::new(&world.connect(builder).await);
        // {"text":"…"} has eleven bytes around the text.
        for (size, fits) in [(999_988, true), (999_989, true), (999_990, false)] {
            match probe.length("x".repeat(size)).await {
                Ok(length) => assert!(fits && length == size, "{size}"),
                Err(error) => {
                    assert!(!fits, "{size}: {error}");
                    assert_eq!(error.code(), Some(StatusCode::ResourceExhausted), "{error}");
                    assert_eq!(error.execution(), Execution::DidNotRun);
                    assert!(error.to_string().contains("`Limits::inflated`"), "{error}");
                }
            }
        }
    }
    // The other way, what a reply unpacks to is bounded by its reader.
    let limits = Limits::new().inflated(100_000);
    let builder = world.builder().limits(limits).compression(Compression::Zlib);
    let probe = ProbeClient::new(&world.connect(builder).await);
    let error = probe.echo("x".repeat(100_000)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.execution()),
        (Some(StatusCode::ResourceExhausted), Execution::Failed),
        "{error}"
    );
}

#[commlib::topic(prefix = "orders")]
pub trait Notes {
    #[topic("noted", durable)]
    async fn noted(&self, text: String);
}

/// An older version of it.
#[commlib::topic(prefix = "orders")]
pub trait OldNotes {
    #[topic("noted", durable)]
    async fn noted(&self, text: u64);
}

#[commlib::rpc_service(name = "shop")]
pub trait Scales {
    #[rpc(durable)]
    async fn weigh(&self, text: String) -> usize;
}

struct Scale;

impl Scales for Scale {
    async fn weigh(&self, text: String) -> usize {
        text.len()
    }
}

pub async fn what_the_broker_keeps_is_compressed(world: World) {
    let narrow = Limits::new().body_in(10_000);
    let node = world.connect(world.builder().limits(narrow)).await;
    let subscriber = NotesSubscriber::new(&node);
    let mut notes = subscriber.noted().group("readers").await.unwrap();
    let mut old = OldNotesSubscriber::new(&node)
        .noted()
        .group("elders")
        .await
        .unwrap();
    node.serve(ScalesServer::new(Scale)).await.unwrap();
    let text = "hello, world; ".repeat(10_000);
    for compression in BOTH {
        for codec in [Codec::Json, Codec::MessagePack] {
            let builder = world.builder().codec(codec).compression(compression);
            let node = world.connect(builder).await;
            NotesPublisher::new(&node).noted(text.clone()).await.unwrap();
            let received = timeout(SOON, notes.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(received.message, text);
            let weigh = ScalesClient::new(&node).weigh(text.clone()).timeout(SOON);
            assert_eq!(weigh.await.unwrap(), text.len());
            // A dead letter is shown as it was before.
            let error = timeout(SOON, old.next()).await.unwrap().unwrap().unwrap_err();
            assert!(matches!(error, RecvError::Decode { .. }), "{error}");
            let letters = node.dead_letters("elders");
            let letter = eventually(SOON, || async { letters.list(1).await.unwrap().pop() }).await;
            assert_eq!(letter.content_encoding, None);
            assert!(String::from_utf8_lossy(&letter.body).contains(&text));
            assert!(letters.discard(&letter.id).await.unwrap());
        }
    }
}
