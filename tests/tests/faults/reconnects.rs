//! Many nodes that lost the same broker: when they try to come back.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use commlib::Node;
use futures_util::future::join_all;

/// How many nodes.
const NODES: usize = 200;
/// By then the waits between tries have grown to their longest, two seconds.
const GROWN: Duration = Duration::from_secs(4);
/// For how long tries are counted after that, in tenths of a second.
const TENTHS: usize = 60;

/// Nodes that all began to try at the same time do not go on trying at the same time: there are tries in most tenths of a
/// second, and still in one of five on a machine that stalls. In step they would come every two seconds, and hit the
/// broker that comes back all at once.
async fn are_spread(scheme: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let begun = Instant::now();
    // A thread of its own, so that it is late only if the machine is. It hangs up on everybody.
    let count = std::thread::spawn(move || {
        let mut tenths = vec![0_usize; TENTHS];
        loop {
            drop(listener.accept().expect("a connection"));
            let Some(after) = begun.elapsed().checked_sub(GROWN) else {
                continue;
            };
            let tenth = usize::try_from(after.as_millis() / 100).expect("not so long");
            match tenths.get_mut(tenth) {
                Some(count) => *count += 1,
                None => return tenths,
            }
        }
    });
    let url = format!("{scheme}://127.0.0.1:{port}");
    let nodes = join_all((0..NODES).map(|_| Node::builder().lazy().connect(&url))).await;
    let tenths = tokio::task::spawn_blocking(|| count.join())
        .await
        .expect("no panic")
        .expect("no panic");
    let tries: usize = tenths.iter().sum();
    let busy = tenths.iter().filter(|count| **count > 0).count();
    assert!(tries >= NODES, "{tries} tries: {tenths:?}");
    assert!(
        busy >= TENTHS / 5,
        "tries in {busy} tenths of a second: {tenths:?}"
    );
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_do_not_return_at_once_to_redis() {
    are_spread("redis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_do_not_return_at_once_to_rabbitmq() {
    are_spread("amqp").await;
}
