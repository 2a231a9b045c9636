//! Tests of the fault proxy: each fault is seen by a client, and only that fault.

use std::io::ErrorKind;
use std::time::Duration;

use commlib_tests::{Direction, FaultProxy, Flow, RedisServer, Reply, RespClient, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(100);

/// A server that sends back what it gets, and its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
}

async fn ask(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    read(stream, text.len()).await
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut answer = vec![0; count];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .expect("no answer")
        .unwrap();
    answer
}

async fn silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(SILENCE, stream.read(&mut byte)).await;
    assert!(read.is_err(), "expected silence, got {read:?}");
}

#[tokio::test]
async fn pass_relays_bytes_and_the_end_of_each_direction() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, b"hello").await, b"hello");
    let large = vec![7; 3_000_000];
    let (mut back, mut there) = stream.split();
    let mut answer = vec![0; large.len()];
    let (sent, got) = tokio::join!(there.write_all(&large), back.read_exact(&mut answer));
    sent.unwrap();
    got.unwrap();
    assert!(answer == large);
    assert_eq!(proxy.forwarded(Direction::ToBroker), 3_000_005);
    assert_eq!(proxy.forwarded(Direction::ToClient), 3_000_005);
    assert_eq!((proxy.connections(), proxy.accepted()), (1, 1));
    there.shutdown().await.unwrap();
    let end = timeout(SOON, back.read(&mut answer))
        .await
        .expect("the end did not come through");
    assert_eq!(end.unwrap(), 0);
    eventually(SOON, || async { proxy.connections() == 0 }).await;
}

#[tokio::test]
async fn delay_adds_time_but_keeps_the_rate() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    proxy.set_one(Direction::ToClient, Flow::Delay(Duration::from_secs(1)));
    let start = Instant::now();
    for _ in 0..10 {
        stream.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read(&mut stream, 10).await, b"xxxxxxxxxx");
    let time = start.elapsed();
    assert!(time >= Duration::from_secs(1), "{time:?}");
    assert!(time < Duration::from_millis(9_900), "delays add up: {time:?}");
    proxy.set(Flow::Delay(Duration::from_secs(60)));
    stream.write_all(b"y").await.unwrap();
    silent(&mut stream).await;
    proxy.set(Flow::Pass);
    assert_eq!(read(&mut stream, 1).await, b"y");
}

#[tokio::test]
async fn throttle_limits_the_rate() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    proxy.set_one(Direction::ToBroker, Flow::Throttle(40_000));
    let start = Instant::now();
    assert_eq!(ask(&mut stream, &[1; 20_000]).await.len(), 20_000);
    let time = start.elapsed();
    assert!(
        time >= Duration::from_millis(450),
        "20,000 bytes at 40,000 a second took {time:?}"
    );
}

#[tokio::test]
async fn hold_keeps_bytes_until_released() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    for direction in [Direction::ToBroker, Direction::ToClient] {
        proxy.set_one(direction, Flow::Hold);
        stream.write_all(b"held").await.unwrap();
        silent(&mut stream).await;
        proxy.set_one(direction, Flow::Pass);
        assert_eq!(read(&mut stream, 4).await, b"held");
    }
}

#[tokio::test]
async fn swallow_kills_a_direction_of_a_connection_for_good() {
    let proxy = FaultProxy::start(echo().await).await;
    for direction in [Direction::ToBroker, Direction::ToClient] {
        let mut stream = connect(&proxy).await;
        assert_eq!(ask(&mut stream, b"a").await, b"a");
        let before = proxy.forwarded(Direction::ToBroker);
        proxy.set_one(direction, Flow::Swallow);
        stream.write_all(b"lost").await.unwrap();
        silent(&mut stream).await;
        let arrived = proxy.forwarded(Direction::ToBroker) - before;
        assert_eq!(arrived, if direction == Direction::ToBroker { 0 } else { 4 });
        proxy.set(Flow::Pass);
        stream.write_all(b"more").await.unwrap();
        silent(&mut stream).await;
        let mut other = connect(&proxy).await;
        assert_eq!(ask(&mut other, b"b").await, b"b");
    }
}

#[tokio::test]
async fn swallow_hides_the_end_of_the_other_side() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(read(&mut stream, 7).await, b"+PONG\r\n");
    proxy.set(Flow::Swallow);
    redis.kill().await;
    silent(&mut stream).await;
}

#[tokio::test]
async fn reset_is_seen_as_a_reset_and_close_as_an_end() {
    let proxy = FaultProxy::start(echo().await).await;
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    assert_eq!(ask(&mut one, b"a").await, b"a");
    assert_eq!(ask(&mut two, b"a").await, b"a");
    proxy.reset().await;
    for stream in [&mut one, &mut two] {
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.connections(), 0);
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, b"b").await, b"b");
    let (closed, read) = tokio::join!(proxy.close(), async {
        let mut byte = [0];
        stream.read(&mut byte).await
    });
    let () = closed;
    assert_eq!(read.unwrap(), 0, "closed in order");
}

#[tokio::test]
async fn refuse_refuses_new_connections_and_keeps_old_ones() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, b"a").await, b"a");
    for _ in 0..3 {
        proxy.refuse().await;
        let error = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&mut old, b"still").await, b"still");
        proxy.accept().await;
        let mut new = connect(&proxy).await;
        assert_eq!(ask(&mut new, b"b").await, b"b");
    }
}

#[tokio::test]
async fn cut_lets_exactly_so_many_bytes_through() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, b"before").await, b"before");
    proxy.set_one(Direction::ToClient, Flow::CutAfter(5));
    let new = connect(&proxy).await;
    for mut stream in [old, new] {
        stream.write_all(b"123").await.unwrap();
        assert_eq!(read(&mut stream, 3).await, b"123");
        stream.write_all(b"45678").await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, stream.read_to_end(&mut rest))
            .await
            .expect("not cut")
            .unwrap();
        assert_eq!(rest, b"45");
    }
}

#[tokio::test]
async fn garble_changes_every_byte() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    proxy.set_one(Direction::ToClient, Flow::Garble);
    assert_eq!(ask(&mut stream, &[0x00, 0xff, 0x0f]).await, [0xff, 0x00, 0xf0]);
}

#[tokio::test]
async fn connections_of_a_dropped_proxy_are_reset() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, b"a").await, b"a");
    let port = proxy.port();
    drop(proxy);
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("still open");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually(SOON, || async {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_broker_comes_through() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let mut client = RespClient::connect(proxy.port()).await;
    assert_eq!(client.command(&["PING"]).await, Reply::Status("PONG".into()));
    let mut stream = connect(&proxy).await;
    redis.kill().await;
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("still open");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let mut late = connect(&proxy).await;
    let read = timeout(SOON, late.read(&mut [0]))
        .await
        .expect("open without a broker");
    assert!(read.is_err(), "{read:?}");
}
