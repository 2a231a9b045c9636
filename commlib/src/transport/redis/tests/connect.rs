//! Connecting: what fails, how soon, and what it never says.

use super::*;

async fn refused(text: &str) -> ConnectError {
    let asked = Instant::now();
    let mut options = options();
    options.connect_timeout = Duration::from_millis(500);
    let error = connect(&url(text), options).await.expect_err("it connected");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    error
}

#[tokio::test]
async fn every_failure_has_its_kind_and_no_password() {
    let server = RedisServer::start().await;
    server.command(&["CONFIG", "SET", "requirepass", "right"]).await;
    let port = server.port();
    let at = |login: &str, rest: &str| format!("redis://{login}127.0.0.1:{port}{rest}");
    for login in ["", ":canary@", "nobody:canary@", "default:canary@"] {
        let error = refused(&at(login, "")).await;
        assert!(matches!(error, ConnectError::Auth { .. }), "{login}: {error:?}");
    }
    let error = refused(&at(":right@", "/99")).await;
    assert!(matches!(error, ConnectError::Auth { .. }), "{error:?}");
    let error = refused("redis://:canary@127.0.0.1:1").await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = refused("redis+unix:///nowhere/redis.sock").await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = refused(&format!("redis://:canary@127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error:?}");

    let transport = connect(&url(&at("default:right@", "/3")), options())
        .await
        .unwrap();
    assert!(!format!("{transport:?}").contains("right@"), "{transport:?}");
    assert!(!format!("{transport:?}").contains("\"right\""), "{transport:?}");
}

#[tokio::test]
async fn an_old_server_that_repeats_the_password_is_not_repeated() {
    let old = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = old.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = old.accept().await.unwrap();
            let text =
                b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `me`, `canary`, \r\n";
            stream.writable().await.unwrap();
            stream.try_write(text).unwrap();
            std::mem::forget(stream);
        }
    });
    let error = refused(&format!("redis://me:canary@127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Unsupported { .. }), "{error:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_secure_connection_is_never_replaced_by_a_plain_one() {
    let server = RedisServer::shared().await;
    let error = refused(&format!("rediss://:canary@127.0.0.1:{}", server.port())).await;
    assert!(
        matches!(error, ConnectError::Tls { .. } | ConnectError::Timeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let server = RedisServer::shared().await;
    let node = connect(&url(&server.unix_url()), options()).await.unwrap();
    let add = unique();
    let _consumer = serve_echo(&node, &add).await;
    let mut told = open_inbox(&node).await;
    node.request(request(&add, "x", "1")).unwrap();
    assert!(matches!(next(&mut told).await, Told::Reply(..)));
}

#[tokio::test]
async fn databases_are_apart() {
    let server = RedisServer::shared().await;
    let one = connect(&url(&format!("{}/1", server.url())), options())
        .await
        .unwrap();
    let add = unique();
    one.send(request(&add, "x", "1")).await.unwrap_err();
    let (_consumer, mut deliveries) = consume(&one, std::slice::from_ref(&add), 1).await;
    one.send(request(&add, "x", "1")).await.unwrap();
    next(&mut deliveries).await.responder.finish();
    let zero = connect_to(&server).await;
    let error = zero.send(request(&add, "x", "1")).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::NoResponders);
}
