//! What a peer sends over the limits costs a server next to no memory: measured on the process of a server.

use std::time::Duration;

use commlib::{Address, Node, rpc::RpcClient};
use commlib_tests::memory::peak;
use commlib_tests::{Program, RedisServer};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_limits_takes_no_memory() {
    let redis = RedisServer::start().await;
    let mut server = Program::example("calculator_server")
        .await
        .env("COMMLIB_URL", redis.url())
        .start();
    server.wait_line("ready", SOON).await;
    let node = Node::connect(&redis.url()).await.unwrap();
    let add = || {
        let address = Address::new("calculator.add").unwrap();
        RpcClient::new(&node)
            .call_untyped(address, &json!({"a": 1, "b": 2}))
            .timeout(SOON)
    };
    assert_eq!(add().await.unwrap(), json!({"c": 3}));
    let before = peak(server.pid());
    let huge = vec![b'x'; 64 * 1024 * 1024];
    let envelope = |data: &str| format!(r#"{{"data":{data},"meta":{{}}}}"#);
    let large = envelope(&format!("\"{}\"", "x".repeat(2 * 1024 * 1024)));
    let deep = envelope(&format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)));
    let headers: Vec<String> = (0..100_000).map(|header| format!("\"{header}\":\"\"")).collect();
    let headers = format!(r#"{{"data":1,"meta":{{"headers":{{{}}}}}}}"#, headers.join(","));
    let mut client = redis.client().await;
    for item in [&huge[..], large.as_bytes(), deep.as_bytes(), headers.as_bytes()] {
        for _ in 0..4 {
            client
                .command(&["RPUSH".as_bytes(), b"calculator.add", item])
                .await;
            assert_eq!(add().await.unwrap(), json!({"c": 3}));
        }
    }
    let grown = peak(server.pid()) - before;
    assert!(grown < 16 * 1024 * 1024, "the server took {grown} bytes more");
}
