//! Peers written by hand from `docs/wire.md` and the vectors, against our nodes on real brokers: what that page says is
//! enough to take part.

mod amqp;
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commlib::prelude::*;
use commlib_tests::unique;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Sum {
    c: i64,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum DivError {
    #[error("division by zero")]
    ByZero,
}

#[commlib::rpc_service]
trait Calculator {
    async fn add(&self, a: i64, b: i64) -> Sum;
    async fn div(&self, a: i64, b: i64) -> Result<Sum, DivError>;
}

/// Counts what ran.
#[derive(Clone, Default)]
struct Calc(Arc<AtomicU32>);

impl Calc {
    fn runs(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> Sum {
        self.0.fetch_add(1, Ordering::SeqCst);
        Sum { c: a + b }
    }

    async fn div(&self, a: i64, b: i64) -> Result<Sum, DivError> {
        a.checked_div(b).map(|c| Sum { c }).ok_or(DivError::ByZero)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Reading {
    range: f64,
    seq: u64,
}

#[commlib::topic]
trait Sensors {
    #[topic("sonar.{side}")]
    async fn sonar(&self, side: String, reading: Reading);
}

/// A node that a test has for itself on a shared broker, and the levels that its addresses begin with there.
async fn node(url: &str) -> (Node, String) {
    let namespace = unique("by-hand");
    let node = Node::builder()
        .namespace(namespace.as_str())
        .connect(url)
        .await
        .expect("a node");
    (node, namespace)
}

fn vectors(file: &str, list: &str) -> Vec<Value> {
    let path = format!("{}/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    all[list].as_array().cloned().unwrap_or_default()
}

fn vector(file: &str, list: &str, name: &str) -> Value {
    let found = vectors(file, list)
        .into_iter()
        .find(|vector| vector["name"] == name);
    found.unwrap_or_else(|| panic!("no vector {name:?} in {file}"))
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(bytes)))
}

fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970");
    u64::try_from(since.as_micros()).expect("a time before the year 500000")
}

/// 24 characters, as reply addresses end with.
fn token() -> String {
    unique("by-hand-token")[..24].to_owned()
}

/// The names of an object's members.
fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

fn is_about_now(us: &Value) {
    let us = us.as_u64().unwrap_or_else(|| panic!("{us} is no time in µs"));
    assert!(
        us.abs_diff(now_us()) < 60_000_000,
        "{us} is no time in µs since 1970, or a wrong one"
    );
}

fn is_message_id(id: &Value) {
    let id = id.as_str().unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    assert!(
        id.len() == 24 && id.bytes().all(allowed),
        "{id:?} is no message id of ours"
    );
}

/// Requests in the form of commlib-py that can't be executed, with where the answer goes.
fn bad_requests_of_commlib_py(reply_to: &str) -> Vec<String> {
    let header =
        json!({"reply_to": reply_to, "timestamp": 1_795_358_679_842_305_903_u64, "content_type": "json"});
    let mut bad: Vec<String> = [
        json!(null),
        json!([1, 2]),
        json!(3),
        json!("x"),
        json!({}),
        json!({"a": "1", "b": 2}),
    ]
    .iter()
    .map(|data| json!({"header": header, "data": data}).to_string())
    .collect();
    bad.push(format!(
        r#"{{"header":{header},"data":{{"a":1,"b":{}}}}}"#,
        "[".repeat(100_000) + &"]".repeat(100_000)
    ));
    bad.push(format!(r#"{{"header":{header},"data":{{"a":1,"b":2,"b":}}}}"#));
    bad
}

/// An error that both kinds of client can see.
fn is_refused(reply: &Value) {
    assert_eq!(reply["header"]["error"]["code"], "invalid_argument", "{reply}");
    assert_eq!(reply["header"]["error"]["execution"], "not_run", "{reply}");
    assert_eq!(reply["data"]["error"], reply["header"]["error"], "{reply}");
}
