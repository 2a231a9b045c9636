//! What a server answers right before it ends is not lost with the connection.

use commlib_tests::{RabbitMq, eventually};
use futures_util::future;

use crate::world::{SOON, WorkClient, World};

/// Enough for the broker to fall behind the socket.
const MANY: u32 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_server_that_ends_get_its_last_replies() {
    let broker = RabbitMq::start().await;
    let world = World::new(broker.url());
    let (serving, calling) = (world.node().await, world.node().await);
    let (_server, seen) = world.serve(&serving, MANY).await;
    let work = WorkClient::new(&calling);
    let calls = (0..MANY).map(|_| tokio::spawn(work.wait().timeout(3 * SOON).into_future()));
    let calls = future::join_all(calls);
    let end = async {
        eventually(2 * SOON, || async { seen.waiting() == u64::from(MANY) }).await;
        // All at once, and the connection is closed as soon as the last reply is written.
        seen.gate.add_permits(MANY as usize);
        serving.shutdown(SOON).await
    };
    let (calls, end) = tokio::join!(calls, end);
    end.unwrap();
    for call in calls {
        call.unwrap().unwrap();
    }
}
