//! A peer that takes connections and says nothing. Alone in its process, because it counts threads and sockets.

use std::time::Duration;

use commlib::ConnectError;
use commlib::prelude::*;
use commlib_tests::eventually;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(20);

fn io_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .expect("/proc")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("lapin"))
        .count()
}

fn sockets() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_a_timeout_and_leaves_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:canary@{}", listener.local_addr().unwrap());
    let limit = Duration::from_millis(300);
    let builder = || Node::builder().connect_timeout(limit);
    // The first attempt also makes what a process has once.
    let _ = builder().connect(&url).await;
    eventually(SOON, || async { io_threads() == 0 }).await;
    let before = (io_threads(), sockets());
    for _ in 0..5 {
        let begun = Instant::now();
        let error = builder().connect(&url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert!(begun.elapsed() < SOON);
    }
    // Giving up earlier ends the attempt too.
    for _ in 0..5 {
        assert!(
            timeout(Duration::from_millis(100), builder().connect(&url))
                .await
                .is_err()
        );
    }
    // A lazy node has one attempt at a time, and none when it is gone.
    let node = builder().lazy().connect(&url).await.unwrap();
    tokio::time::sleep(limit * 4).await;
    assert!(io_threads() <= before.0 + 2, "{} threads", io_threads());
    drop(node);
    eventually(SOON, || async {
        let now = (io_threads(), sockets());
        if now == before { Ok(()) } else { Err((now, before)) }
    })
    .await;
}
