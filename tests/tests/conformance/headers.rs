//! Made-up headers: those that the API takes arrive unchanged on every transport, all others are refused before anything
//! is sent.
//!
//! The same headers are made up in every run; `COMMLIB_HEADERS` is another number of cases, and `COMMLIB_HEADERS_SEED` another
//! seed.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use commlib::prelude::*;
use commlib::{CallError, Execution, LocalError, NodeError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::timeout;

use crate::world::{SOON, World};

type Names = BTreeMap<String, String>;

#[commlib::rpc_service(name = "mirror")]
trait Mirror {
    async fn headers(&self, ctx: &RequestContext) -> Names;
}

#[commlib::topic(prefix = "mirror")]
trait Events {
    #[topic("event")]
    async fn event(&self, number: u64);
    #[topic("kept", durable)]
    async fn kept(&self, number: u64);
}

/// Tells what it got.
#[derive(Default)]
struct Glass {
    runs: Arc<AtomicUsize>,
}

impl Mirror for Glass {
    async fn headers(&self, ctx: &RequestContext) -> Names {
        self.runs.fetch_add(1, Ordering::SeqCst);
        own(ctx.headers().iter())
    }
}

/// Without the context of the trace, which is the library's.
fn own<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Names {
    headers
        .filter(|(name, _)| *name != "traceparent")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What the documentation says of a header. The size of all together is a limit of its own.
fn is_fine(name: &str, value: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| (b'!'..=b'~').contains(&byte))
        && !name.starts_with("commlib-")
        && !["CC", "BCC"].contains(&name)
        && value.len() <= 8192
        && !value.chars().any(char::is_control)
}

fn names() -> impl Strategy<Value = String> {
    let known = [
        "",
        "commlib-timeout-ms",
        "commlib-",
        "Commlib-timeout-ms",
        "commlib",
        "CC",
        "BCC",
        "cc",
        "authorization",
        "x-death",
        "x-delivery-count",
        "x-match",
        "content-type",
        "reply_to",
        "id",
        "data",
        "__proto__",
        "\"",
        "\\u0041",
        "with space",
        "line\nbreak",
        "ümlaut",
    ];
    prop_oneof![
        6 => "[!-~]{1,20}",
        1 => "[a-z]{127,129}",
        3 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "\\PC{0,40}",
        2 => "[ -~]{0,40}",
        1 => any::<String>(),
        1 => proptest::sample::select(vec![
            String::new(),
            "x".repeat(8192),
            "x".repeat(8193),
            "\"\\/ \u{2028}\u{feff}\u{fffd}\u{10ffff}🦀".to_owned(),
            "tab\t".to_owned(),
            "\u{7f}".to_owned(),
            "\u{85}".to_owned(),
            "null".to_owned(),
            "-1e999".to_owned(),
        ]),
    ]
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Whether it was refused on this side because of a header.
fn refused(error: &LocalError) {
    let is = matches!(error, LocalError::Header { .. } | LocalError::Limit { .. });
    assert!(is, "{error:?}");
}

pub async fn any_headers_arrive_unchanged_or_are_refused(world: World) {
    let glass = Glass::default();
    let runs = Arc::clone(&glass.runs);
    let server = world.node().await;
    server.serve(MirrorServer::new(glass)).await.unwrap();
    let mut events = EventsSubscriber::new(&server).event().await.unwrap();
    let mut kept = EventsSubscriber::new(&server).kept().group("g").await.unwrap();
    let node = world.node().await;
    let (mirror, publisher) = (MirrorClient::new(&node), EventsPublisher::new(&node));

    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("COMMLIB_HEADERS_SEED", 1).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let lists = proptest::collection::vec((names(), values()), 0..5);
    let mut accepted = 0;
    for case in 0..number("COMMLIB_HEADERS", 80) {
        let list = lists.new_tree(&mut runner).expect("headers").current();
        // A later one of the same name takes the place of an earlier one.
        let sent: Names = list.iter().cloned().collect();
        let size: usize = sent.iter().map(|(name, value)| name.len() + value.len()).sum();
        // With the context of the trace.
        let fits = size + 66 <= 16 * 1024 && sent.iter().all(|(name, value)| is_fine(name, value));
        let mut call = mirror.headers();
        let mut event = publisher.event(case);
        let mut keep = publisher.kept(case);
        for (name, value) in &list {
            call = call.header(name, value);
            event = event.header(name, value);
            keep = keep.header(name, value);
        }
        if fits {
            accepted += 1;
            assert_eq!(call.await.unwrap(), sent, "{list:?}");
            event.await.unwrap();
            keep.await.unwrap();
            for heard in [&mut events, &mut kept] {
                let received = timeout(SOON, heard.next()).await.unwrap().unwrap().unwrap();
                assert_eq!(
                    (received.message, own(received.headers.iter())),
                    (case, sent.clone())
                );
            }
            continue;
        }
        let error = call.await.expect_err("headers that are none");
        assert_eq!(error.execution(), Execution::DidNotRun, "{list:?}");
        match error {
            CallError::Local(error) => refused(&error),
            error => panic!("{list:?}: {error:?}"),
        }
        for publish in [event.into_future(), keep.into_future()] {
            match publish.await {
                Err(NodeError::Local(error)) => refused(&error),
                other => panic!("{list:?}: {other:?}"),
            }
        }
    }
    assert_eq!(runs.load(Ordering::SeqCst), accepted);
    // Nothing of what was refused came.
    publisher.event(u64::MAX).await.unwrap();
    publisher.kept(u64::MAX).await.unwrap();
    for heard in [&mut events, &mut kept] {
        let received = timeout(SOON, heard.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(received.message, u64::MAX);
    }
}
