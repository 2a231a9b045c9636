//! A broker of bytes: what comes from it and what goes to it, without the library's thread.

use async_compat::Compat;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::frames::{BODY, Frame, HEADER, HEARTBEAT, METHOD, method};
use super::library::LibrarySide;
use super::*;

const CHANNEL: u16 = 7;
const TAG: u64 = 3;

/// Both ends of a connection on which one channel has one consumer.
struct World {
    wire: Arc<Wire>,
    library: Compat<LibrarySide>,
    broker: DuplexStream,
    state: Arc<ChannelState>,
    messages: UnboundedReceiver<Message>,
}

impl World {
    async fn new() -> Self {
        let (broker, client) = tokio::io::duplex(1024 * 1024);
        let (wire, library) = Wire::over(Compat::new(client));
        let mut library = Compat::new(library);
        // The greeting is no frame.
        library.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        let state = Arc::new(ChannelState::new(CHANNEL));
        wire.channels.lock().insert(CHANNEL, Arc::clone(&state));
        let (sender, messages) = unbounded_channel();
        let deliver: Deliver = Arc::new(move |message| {
            let _ = sender.send(message);
        });
        state.consumers.lock().push(Consumer {
            tag: TAG,
            max_body: 2048,
            deliver,
        });
        let mut world = Self {
            wire,
            library,
            broker,
            state,
            messages,
        };
        let mut greeting = [0; 8];
        world.broker.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"AMQP\x00\x00\x09\x01");
        world
    }

    fn publish(&self, body: &[u8]) -> Option<Sent> {
        let to = Destination {
            exchange: "",
            key: "a.b",
            mandatory: false,
        };
        self.wire
            .publish(&self.state, to, &BasicProperties::default(), body, false)
    }

    /// The next frame that reaches the broker.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; 7];
        self.broker.read_exact(&mut bytes).await.unwrap();
        let missing = frames::size(&bytes).unwrap() - bytes.len();
        let at = bytes.len();
        bytes.resize(at + missing, 0);
        self.broker.read_exact(&mut bytes[at..]).await.unwrap();
        let Frame { kind, payload, .. } = frames::first(&bytes).unwrap().unwrap();
        (kind, payload.to_vec())
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(0xCE);
    frame
}

fn method_frame(channel: u16, method: u32, arguments: &[u8]) -> Vec<u8> {
    let payload = [method.to_be_bytes().as_slice(), arguments].concat();
    frame(METHOD, channel, &payload)
}

/// A delivery with these bytes for its properties, and this body in pieces.
fn delivery(number: u64, properties: &[u8], body: &[&[u8]]) -> Vec<u8> {
    let mut arguments = vec![1];
    arguments.extend_from_slice(TAG.to_string().as_bytes());
    arguments.extend_from_slice(&number.to_be_bytes());
    arguments.push(0);
    arguments.extend_from_slice(b"\x08exchange\x03key");
    let mut bytes = method_frame(CHANNEL, method::DELIVER, &arguments);
    let size: usize = body.iter().map(|part| part.len()).sum();
    let header = [&[0, 60, 0, 0], (size as u64).to_be_bytes().as_slice(), properties].concat();
    bytes.extend(frame(HEADER, CHANNEL, &header));
    for part in body {
        bytes.extend(frame(BODY, CHANNEL, part));
    }
    bytes
}

/// The properties of messages as this writes them.
fn written(properties: &BasicProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    table::write_properties(&mut bytes, properties);
    bytes
}

/// Headers, so many tables in one another.
fn nested(levels: usize) -> BasicProperties {
    let inner = AMQPValue::FieldArray(FieldArray::default());
    let value = (0..levels).fold(inner, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
    let mut table = FieldTable::default();
    table.insert("deep".into(), value);
    BasicProperties::default().with_headers(table)
}

#[tokio::test]
async fn messages_come_whole_however_their_bytes_come() {
    let properties = BasicProperties::default()
        .with_correlation_id("id".into())
        .with_timestamp(5);
    let bytes = [
        delivery(1, &written(&properties), &[b"one", b" and ", b"two"]),
        delivery(2, &written(&properties), &[]),
        delivery(3, &written(&properties), &[b"three"]),
    ]
    .concat();
    for piece in [1, 2, 3, 7, 64, bytes.len()] {
        let mut world = World::new().await;
        for part in bytes.chunks(piece) {
            world.broker.write_all(part).await.unwrap();
            // What is there is read, whether or not it is a whole frame.
            tokio::task::yield_now().await;
        }
        for (number, body) in [(1, "one and two"), (2, ""), (3, "three")] {
            let message = world.messages.recv().await.unwrap();
            assert_eq!((message.delivery_tag, &*message.data), (number, body.as_bytes()));
            assert_eq!(message.properties, properties);
            assert_eq!(
                (message.exchange.as_str(), message.routing_key.as_str()),
                ("exchange", "key")
            );
            assert_eq!((message.redelivered, message.malformed), (false, None));
        }
    }
}

#[tokio::test]
async fn of_a_body_that_is_too_large_only_the_beginning_is_kept() {
    let mut world = World::new().await;
    let part = [b'x'; 1024];
    for (parts, kept) in [(2, 2048), (3, 1024), (100, 1024)] {
        let bytes = delivery(1, &[0, 0], &vec![&part[..]; parts]);
        world.broker.write_all(&bytes).await.unwrap();
        let message = world.messages.recv().await.unwrap();
        assert_eq!((message.size, message.data.len()), (parts * 1024, kept));
    }
}

#[tokio::test]
async fn what_is_no_text_or_nested_too_deeply_is_one_malformed_message() {
    let mut world = World::new().await;
    // Correlation id and reply address; the first is no text.
    let no_text = [
        &(1_u16 << 10 | 1 << 9).to_be_bytes()[..],
        b"\x02\xFF\xFE\x05where",
    ]
    .concat();
    let cut_off = [&(1_u16 << 10).to_be_bytes()[..], b"\x09short"].concat();
    let fine = written(&BasicProperties::default().with_type("fine".into()));
    for properties in [&no_text, &written(&nested(40)), &cut_off, &fine] {
        let bytes = delivery(1, properties, &[b"{}"]);
        world.broker.write_all(&bytes).await.unwrap();
    }
    let message = world.messages.recv().await.unwrap();
    assert_eq!(message.malformed, Some("a property is no text"));
    let reply_to = message.properties.reply_to().as_ref();
    assert_eq!(reply_to.map(ShortString::as_str), Some("where"));
    for _ in 0..2 {
        let message = world.messages.recv().await.unwrap();
        assert!(message.malformed.is_some());
        assert_eq!(&*message.data, b"{}");
    }
    let message = world.messages.recv().await.unwrap();
    assert_eq!(
        (message.malformed, message.properties.kind().is_some()),
        (None, true)
    );
    assert!(!world.wire.is_over());
}

#[test]
fn properties_read_back_and_the_library_reads_them_too() {
    let mut table = FieldTable::default();
    for (key, value) in [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-1)),
        ("u8", AMQPValue::ShortShortUInt(255)),
        ("i16", AMQPValue::ShortInt(-2)),
        ("u16", AMQPValue::ShortUInt(65_535)),
        ("i32", AMQPValue::LongInt(-3)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(1.5)),
        ("f64", AMQPValue::Double(-2.5)),
        ("text", AMQPValue::LongString("text".into())),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        ("bytes", AMQPValue::ByteArray(vec![0, 1, 255].into())),
        ("void", AMQPValue::Void),
        ("table", AMQPValue::FieldTable(FieldTable::default())),
    ] {
        table.insert(key.into(), value);
    }
    let all = BasicProperties::default()
        .with_content_type("a".into())
        .with_content_encoding("b".into())
        .with_headers(table)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("d".into())
        .with_expiration("e".into())
        .with_message_id("f".into())
        .with_timestamp(4)
        .with_type("g".into())
        .with_user_id("h".into())
        .with_app_id("i".into())
        .with_cluster_id("j".into());
    for properties in [all, nested(30), BasicProperties::default()] {
        let bytes = written(&properties);
        let (read, broken) = table::read_properties(&mut frames::Bytes(&bytes));
        assert_eq!((&read, broken), (&properties, None));
        let (rest, read) = lapin::protocol::basic::parse_properties(bytes.as_slice()).unwrap();
        assert_eq!((read, rest.len()), (properties, 0));
    }
}

#[tokio::test]
async fn what_the_library_writes_is_not_torn_apart() {
    let mut world = World::new().await;
    let queried = frame(METHOD, 1, b"a method of the library");
    world.library.write_all(&queried[..10]).await.unwrap();
    world.publish(b"body").unwrap();
    world.library.write_all(&queried[10..]).await.unwrap();
    let kinds = [METHOD, HEADER, BODY];
    for kind in kinds {
        assert_eq!(world.frame().await.0, kind);
    }
    let (kind, payload) = world.frame().await;
    assert_eq!(
        (kind, payload.as_slice()),
        (METHOD, &b"a method of the library"[..])
    );
}

#[tokio::test]
async fn nothing_is_written_on_a_channel_that_is_closed() {
    let mut world = World::new().await;
    assert_eq!(world.publish(b"").map(|sent| sent.number), Some(1));
    world
        .library
        .write_all(&method_frame(CHANNEL, method::CHANNEL_CLOSE, b""))
        .await
        .unwrap();
    assert_eq!(world.publish(b""), None);
    // What the broker sent before it heard of that is still to come.
    let bytes = delivery(1, &[0, 0], &[b"late"]);
    world.broker.write_all(&bytes).await.unwrap();
    assert_eq!(&*world.messages.recv().await.unwrap().data, b"late");
    let closed = method_frame(CHANNEL, method::CHANNEL_CLOSE_OK, b"");
    world.broker.write_all(&closed).await.unwrap();
    world.state.ended.cancelled().await;
    let mut read = vec![0; closed.len()];
    world.library.read_exact(&mut read).await.unwrap();
    assert_eq!(read, closed, "the library closes it");
}

#[tokio::test]
async fn nobody_hears_of_a_closed_channel_before_the_library_does() {
    let mut world = World::new().await;
    let close = method_frame(CHANNEL, method::CHANNEL_CLOSE, b"\x01\x94\x04what\0\0\0\0");
    world.broker.write_all(&close).await.unwrap();
    let mut read = vec![0; close.len()];
    world.library.read_exact(&mut read).await.unwrap();
    assert_eq!(read, close);
    assert!(!world.state.ended.is_cancelled());
    assert_eq!(world.publish(b""), None);
    let closed = method_frame(CHANNEL, method::CHANNEL_CLOSE_OK, b"");
    world.library.write_all(&closed).await.unwrap();
    assert!(world.state.ended.is_cancelled());
    let cause = world.state.cause.get().unwrap().to_string();
    assert!(cause.contains("what"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn messages_are_a_sign_of_life_to_the_library() {
    let mut world = World::new().await;
    let mut heard = 0;
    for second in 0..10 {
        let bytes = delivery(second, &[0, 0], &[b"x"]);
        world.broker.write_all(&bytes).await.unwrap();
        let message = world.messages.recv().await.unwrap();
        assert_eq!(message.came, tokio::time::Instant::now());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let mut read = [0; 8];
        if let Some(all) = futures_util::FutureExt::now_or_never(world.library.read_exact(&mut read)) {
            all.unwrap();
            assert_eq!(read, HEARTBEAT);
            heard += 1;
        }
    }
    assert!(heard >= 8, "{heard}");
}

#[tokio::test]
async fn the_end_of_a_connection_ends_all_that_is_on_it() {
    let mut world = World::new().await;
    let (answer, answered) = oneshot::channel();
    world.state.asked.lock().push_back(answer);
    let sent = world.publish(b"written").unwrap();
    for _ in 0..3 {
        world.frame().await;
    }
    drop(world.broker);
    assert!(answered.await.is_err());
    assert!(world.state.ended.is_cancelled() && world.wire.is_over());
    assert_eq!(world.messages.recv().await.map(|_| ()), None);
    let mut read = [0; 1];
    assert_eq!(world.library.read(&mut read).await.unwrap(), 0);
    assert!(world.library.write_all(b"more").await.is_err());
    // It was written, and can't be told to be not.
    assert!(sent.end <= world.wire.seal());
    let to = Destination {
        exchange: "",
        key: "",
        mandatory: false,
    };
    let properties = BasicProperties::default();
    assert_eq!(
        world.wire.publish(&world.state, to, &properties, b"", false),
        None
    );
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_connection() {
    let mut world = World::new().await;
    world
        .broker
        .write_all(&[1, 0, 1, 0, 0, 0, 1, 0, 0])
        .await
        .unwrap();
    world.state.ended.cancelled().await;
    let mut read = [0; 1];
    let error = world.library.read(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

/// Waits until so many bytes are written.
struct Until {
    end: AtomicU64,
    done: CancellationToken,
}

impl Publisher for Until {
    fn written(&self, bytes: u64) -> bool {
        let waits = bytes < self.end.load(Ordering::Relaxed);
        if !waits {
            self.done.cancel();
        }
        waits
    }

    fn confirmed(&self, _: u64, _: bool, _: bool) {}

    fn returned(&self, _: Message) {}
}

#[tokio::test]
async fn whoever_waits_for_a_write_is_told_however_many_it_takes() {
    let mut world = World::new().await;
    let until = Arc::new(Until {
        end: AtomicU64::new(u64::MAX),
        done: CancellationToken::new(),
    });
    let publisher: Arc<dyn Publisher> = until.clone();
    let _ = world.state.publisher.set(Arc::downgrade(&publisher));
    let to = Destination {
        exchange: "",
        key: "a",
        mandatory: false,
    };
    // More than the socket takes at once.
    let body = vec![0; 3 * 1024 * 1024];
    let sent = world
        .wire
        .publish(&world.state, to, &BasicProperties::default(), &body, true);
    let end = sent.unwrap().end;
    until.end.store(end, Ordering::Relaxed);
    let mut bytes = vec![0; usize::try_from(end).unwrap() - 8];
    world.broker.read_exact(&mut bytes).await.unwrap();
    let told = until.done.cancelled();
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, told).await.expect("it is told");
}

/// The arguments of `connection.tune` and of its answer.
fn tuning(channels: u16, frame_max: u32) -> Vec<u8> {
    [
        channels.to_be_bytes().as_slice(),
        &frame_max.to_be_bytes(),
        &10_u16.to_be_bytes(),
    ]
    .concat()
}

#[tokio::test]
async fn frames_are_small_for_the_library_and_large_for_the_broker() {
    for (offered, agreed) in [
        (0, FRAME_MAX),
        (1, FRAME_MIN),
        (4096, 4096),
        (9000, 9000),
        (1 << 20, FRAME_MAX),
    ] {
        let mut world = World::new().await;
        let offer = method_frame(0, method::TUNE, &tuning(2047, offered));
        world.broker.write_all(&offer).await.unwrap();
        let mut read = vec![0; offer.len()];
        world.library.read_exact(&mut read).await.unwrap();
        assert_eq!(read, offer);

        // In the middle of other frames, and written in two parts.
        let answer = method_frame(0, method::TUNE_OK, &tuning(2047, LIBRARY_FRAME_MAX));
        let bytes = [HEARTBEAT.as_slice(), &answer, &HEARTBEAT].concat();
        let (first, second) = bytes.split_at(HEARTBEAT.len() + 15);
        world.library.write_all(first).await.unwrap();
        world.library.write_all(second).await.unwrap();
        assert_eq!(world.frame().await.0, HEARTBEAT[0]);
        let (kind, answered) = world.frame().await;
        let expected = [method::TUNE_OK.to_be_bytes().as_slice(), &tuning(2047, agreed)].concat();
        assert_eq!((kind, answered), (METHOD, expected), "{offered}");
        assert_eq!(world.frame().await.0, HEARTBEAT[0]);

        // What is published is cut as agreed.
        let body = vec![1; 3 * FRAME_MAX as usize];
        let broker = async |world: &mut World| {
            let mut largest = 0;
            let mut came = 0;
            while came < body.len() {
                let (kind, payload) = world.frame().await;
                if kind == BODY {
                    largest = largest.max(payload.len() + 8);
                    came += payload.len();
                }
            }
            largest
        };
        world.publish(&body).unwrap();
        assert_eq!(broker(&mut world).await, agreed as usize, "{offered}");
    }
}
