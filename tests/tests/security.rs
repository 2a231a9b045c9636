//! Secrets stay where they belong: a password, a token in a header and what is in bodies are in no log of the library down
//! to TRACE, in no error and in no `Debug` output, whatever goes wrong. Where they go over the network unencrypted, a
//! warning says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use commlib::middleware::{BoxFuture, Invocation, Middleware, Next, Outcome};
use commlib::prelude::*;
use commlib::topic::TopicSubscriber;
use commlib::{BrokerUrl, Node, Pattern, Tls, rpc::RpcClient};
use commlib_tests::{RabbitMq, RedisServer, unique};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

const SOON: Duration = Duration::from_secs(30);
const PASSWORD: &str = "canary-password";
const TOKEN: &str = "canary-token";
const BODY: &str = "canary-body";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum Color {
    Red,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("it is locked")]
struct Locked {
    key: String,
}

#[commlib::rpc_service(name = "vault")]
trait Vault {
    async fn keep(&self, secret: String) -> String;
    async fn count(&self, number: u64) -> u64;
    async fn paint(&self, color: Color) -> Color;
    async fn open(&self, secret: String) -> Result<String, Locked>;
    async fn fail(&self, secret: String);
    #[rpc(oneway)]
    async fn drop_in(&self, number: u64);
}

struct Keeper;

impl Vault for Keeper {
    async fn keep(&self, secret: String) -> String {
        secret
    }
    async fn count(&self, number: u64) -> u64 {
        number
    }
    async fn paint(&self, color: Color) -> Color {
        color
    }
    async fn open(&self, secret: String) -> Result<String, Locked> {
        Err(Locked { key: secret })
    }
    async fn fail(&self, secret: String) {
        panic!("a secret of {} bytes", secret.len());
    }
    async fn drop_in(&self, _number: u64) {}
}

/// The same service as somebody sees it who is mistaken about its types.
mod mistaken {
    use super::{Deserialize, JsonSchema, Serialize};

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    pub(super) struct Anything(pub(super) serde_json::Value);

    #[commlib::rpc_service(name = "vault")]
    pub(super) trait Vault {
        async fn keep(&self, secret: String) -> u64;
        async fn count(&self, number: Anything) -> u64;
        async fn paint(&self, color: String) -> String;
        async fn open(&self, secret: String) -> Result<String, commlib::rpc::UntypedError>;
        #[rpc(oneway)]
        async fn drop_in(&self, number: Anything);
    }
}

#[commlib::topic(prefix = "vault")]
trait Doors {
    #[topic("door")]
    async fn door(&self, number: u64);
}

struct Porter;

impl Doors for Porter {
    async fn door(&self, _number: u64) {}
}

/// Everything that was shown or logged.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn show(&self, what: &dyn std::fmt::Debug) {
        self.0.lock().extend(format!("{what:?} {what:#?}\n").into_bytes());
    }

    fn error(&self, error: &(impl std::error::Error + ?Sized)) {
        self.0.lock().extend(format!("{error} {error:?}\n").into_bytes());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Middleware for Captured {
    fn handle<'a>(&'a self, invocation: Invocation, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.show(&invocation);
            let outcome = next.run(invocation).await;
            self.show(&outcome);
            outcome
        })
    }
}

/// All that can be done with a node, and much that can go wrong.
async fn everything(url: &str, captured: &Captured) {
    captured.show(&BrokerUrl::parse(url).unwrap());
    let builder = Node::builder()
        .namespace(unique("vault"))
        .client_middleware(captured.clone())
        .server_middleware(captured.clone())
        .operation_timeout(SOON);
    captured.show(&builder);
    let node = builder.connect(url).await.unwrap();
    let server = node.serve(VaultServer::new(Keeper)).await.unwrap();
    let porter = node.serve(DoorsHandler::new(Porter)).await.unwrap();
    let mut doors = DoorsSubscriber::new(&node).door().await.unwrap();
    captured.show(&(&node, &server, &porter, &doors, node.state()));

    let (vault, mistaken) = (VaultClient::new(&node), mistaken::VaultClient::new(&node));
    let call = vault.keep(BODY.to_owned()).header("authorization", TOKEN);
    captured.show(&call);
    assert_eq!(call.await.unwrap(), BODY);
    let oneway = mistaken
        .drop_in(mistaken::Anything(json!(BODY)))
        .header("authorization", TOKEN);
    captured.show(&oneway);
    oneway.await.unwrap();
    captured.error(&mistaken.keep(BODY.to_owned()).await.unwrap_err());
    captured.error(&mistaken.count(mistaken::Anything(json!(BODY))).await.unwrap_err());
    captured.error(
        &mistaken
            .count(mistaken::Anything(json!({ "a": BODY })))
            .await
            .unwrap_err(),
    );
    captured.error(&mistaken.paint(BODY.to_owned()).await.unwrap_err());
    captured.error(&vault.fail(BODY.to_owned()).await.unwrap_err());
    let Err(commlib::CallError::App(locked)) = vault.open(BODY.to_owned()).await else {
        panic!("it is locked")
    };
    assert_eq!(locked.key, BODY);
    captured.error(
        &vault
            .keep("x".repeat(2 << 20))
            .header("authorization", TOKEN)
            .await
            .unwrap_err(),
    );
    captured.error(
        &vault
            .keep(BODY.to_owned())
            .header("bad name", TOKEN)
            .await
            .unwrap_err(),
    );

    // Messages of a topic that are not what they should be.
    let other = RpcClient::new(&node);
    captured.show(&other);
    let wrong = Strings::new(&node);
    wrong
        .door(BODY.to_owned())
        .header("authorization", TOKEN)
        .await
        .unwrap();
    captured.error(
        &tokio::time::timeout(SOON, doors.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap_err(),
    );
    let mut untyped = TopicSubscriber::new(&node)
        .pattern::<Value>(Pattern::new("vault.#").unwrap())
        .await
        .unwrap();
    wrong.door(BODY.to_owned()).await.unwrap();
    assert_eq!(
        tokio::time::timeout(SOON, untyped.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message,
        json!(BODY)
    );
    node.shutdown(SOON).await.unwrap();
    captured.error(&vault.keep(BODY.to_owned()).await.unwrap_err());

    // Logins and secure connections that fail.
    for (from, to) in [
        (PASSWORD, "canary-password-of-another"),
        ("redis://", "rediss://"),
        ("amqp://", "amqps://"),
        ("127.0.0.1:", "127.0.0.1:9"),
        ("?", "?"),
    ] {
        let wrong = url.replacen(from, to, 1);
        if wrong != url {
            match Node::builder()
                .connect_timeout(Duration::from_secs(2))
                .connect(&wrong)
                .await
            {
                Ok(_) => panic!("connected with a wrong URL"),
                Err(error) => captured.error(&error),
            }
        }
    }
}

/// A publisher that sends texts to a topic of numbers.
type Strings = texts::DoorsPublisher;

mod texts {
    #[commlib::topic(prefix = "vault")]
    pub(super) trait Doors {
        #[topic("door")]
        async fn door(&self, number: String);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere() {
    let captured = Captured::default();
    tracing_subscriber::fmt()
        .with_env_filter("commlib=trace")
        .with_ansi(false)
        .with_writer(captured.clone())
        .init();
    let redis = RedisServer::start().await;
    redis
        .command(&[
            "ACL",
            "SETUSER",
            "app",
            "on",
            &format!(">{PASSWORD}"),
            "~*",
            "&*",
            "+@all",
        ])
        .await;
    let rabbit = RabbitMq::shared().await;
    let user = unique("app");
    rabbit.ctl(&["add_user", &user, PASSWORD]).await;
    rabbit.ctl(&["set_permissions", &user, ".*", ".*", ".*"]).await;
    for url in [
        unique("memory://vault"),
        format!("redis://app:{PASSWORD}@127.0.0.1:{}", redis.port()),
        format!("amqp://{user}:{PASSWORD}@127.0.0.1:{}", rabbit.port()),
    ] {
        everything(&url, &captured).await;
    }
    assert!(!captured.text().contains("unencrypted"), "to this machine");
    let elsewhere = format!("redis://app:{PASSWORD}@0.0.0.0:{}", redis.port());
    let node = Node::connect(&elsewhere)
        .await
        .expect("the same broker under another address");
    node.shutdown(SOON).await.expect("it ends");
    captured.show(&Node::builder().tls(Tls::new().certificate_pem(BODY, PASSWORD)));
    for text in [
        "redis://u:canary-password@h:99999",
        "redis://u:canary-password@h/x?y=1",
        "canary-password",
    ] {
        captured.error(&BrokerUrl::parse(text).unwrap_err());
    }
    let text = captured.text();
    let logged = |what: &str| assert!(text.contains(what), "nothing of {what} was captured");
    logged("a handler panicked");
    logged("unencrypted");
    logged("WARN");
    logged("<");
    for line in text.lines() {
        // A URL that is no URL at all has no password that could be told from the rest; it is not repeated either.
        assert!(!line.contains("canary"), "{line}");
    }
}
