//! A Redis that says anything: real answers up to some byte, from there on bytes without a sense.
//!
//! Nothing panics and nothing hangs: calls end by their deadline with a typed error, the connection is dropped, and all
//! is well again as soon as the broker makes sense.
//!
//! `COMMLIB_SEED` is the first of four seeds, a new one each time unless it is set, as `scripts/test` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use commlib::prelude::*;
use commlib_tests::{RedisServer, eventually, seed, unique};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[commlib::rpc_service(name = "sane")]
trait Sane {
    async fn double(&self, number: u32) -> u32;
}

struct Doubler;

impl Sane for Doubler {
    async fn double(&self, number: u32) -> u32 {
        2 * number
    }
}

/// What is close enough to the protocol to get far into a reader, and what is not.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"+OK\r\n",
    b"-ERR x\r\n",
    b":1\r\n",
    b":-9223372036854775809\r\n",
    b"$-1\r\n",
    b"$3\r\nabc\r\n",
    b"$3\r\nabcdef",
    b"$99999999999\r\n",
    b"$-7\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n",
    b"*1000000000\r\n",
    b"%2\r\n",
    b"~1\r\n",
    b"|1\r\n+k\r\n+v\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n{}\r\n",
    b">1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"(123\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"!5\r\nERR x\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\0\0\0\0",
    b"\xff\xfe\r\n",
    b"{\"data\":1,\"meta\":{}}",
];

fn garbage(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..200) {
        match random.random_range(0..8) {
            0 => bytes.push(random.random()),
            1 => {
                let mut noise = vec![0; random.random_range(1..64)];
                random.fill_bytes(&mut noise);
                bytes.extend(noise);
            }
            _ => bytes.extend_from_slice(PIECES[random.random_range(0..PIECES.len())]),
        }
    }
    bytes
}

/// Goes between nodes and a Redis.
async fn relay(listener: TcpListener, redis: u16, seed: u64, mad: Arc<AtomicBool>, dropped: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let (mut node, _) = listener.accept().await.unwrap();
        let mut broker = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
        let (mad, dropped) = (Arc::clone(&mad), Arc::clone(&dropped));
        // Within the greeting, or somewhere after it.
        let sane = random.random_range(0..1500);
        let noise = garbage(&mut random);
        tokio::spawn(async move {
            let (mut from_node, mut to_node) = node.split();
            let (mut from_broker, mut to_broker) = broker.split();
            let answers = async {
                let (mut passed, mut buffer) = (0, [0; 256]);
                loop {
                    let read = from_broker.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 || to_node.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    passed += read;
                    if passed >= sane && mad.load(Ordering::SeqCst) {
                        let _ = to_node.write_all(&noise).await;
                    }
                }
            };
            tokio::select! {
                () = answers => {}
                _ = copy(&mut from_node, &mut to_broker) => {
                    dropped.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_makes_no_sense_is_left_and_found_again() {
    let redis = RedisServer::shared().await;
    let first = seed();
    for seed in (0..4).map(|number| first.wrapping_add(number)) {
        println!("seed {seed}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = redis.url_at(listener.local_addr().unwrap().port());
        let mad = Arc::new(AtomicBool::new(true));
        let dropped = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(relay(
            listener,
            redis.port(),
            seed,
            Arc::clone(&mad),
            Arc::clone(&dropped),
        ));

        let namespace = unique("sane");
        let server = Node::builder()
            .namespace(&namespace)
            .connect(&redis.url())
            .await
            .unwrap();
        let _serving = server.serve(SaneServer::new(Doubler)).await.unwrap();
        let builder = Node::builder().namespace(&namespace).lazy();
        let node = builder.connect(&url).await.unwrap();
        let client = SaneClient::new(&node);
        let limit = Duration::from_millis(300);
        for number in 0..5 {
            let begun = Instant::now();
            // An answer that came before the noise is one; everything else is a typed error.
            if let Ok(doubled) = client.double(number).timeout(limit).await {
                assert_eq!(doubled, 2 * number);
            }
            let took = begun.elapsed();
            assert!(took < limit + Duration::from_secs(10), "{took:?}");
        }
        eventually(Duration::from_secs(10), || async {
            dropped.load(Ordering::SeqCst) > 0
        })
        .await;
        mad.store(false, Ordering::SeqCst);
        eventually(Duration::from_secs(20), || async {
            client.double(4).timeout(Duration::from_secs(1)).await.is_ok()
        })
        .await;
        task.abort();
    }
}
