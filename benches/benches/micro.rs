//! What a call costs in steps: encoding and decoding envelopes, matching addresses, dispatching over the in-process bus.
//!
//! `cargo bench -p commlib-bench --bench micro`

use std::hint::black_box;

use commlib::envelope::{Envelope, native};
use commlib::{Node, Pattern};
use criterion::{Criterion, criterion_group, criterion_main};

/// A contract with one method.
#[commlib::rpc_service(name = "micro")]
trait Micro {
    /// Adds two integers.
    async fn add(&self, a: i64, b: i64) -> i64;
}

struct Handler;

impl Micro for Handler {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }
}

fn message(body: &str) -> Envelope {
    let text = format!(
        r#"{{"data":{body},"meta":{{"properties":{{"content_type":"application/json","content_encoding":"utf8"}},"timestamp":1795358679842305,"timeout_ms":10000,"id":"Zm9vYmFyYmF6cXV4cXV1eDEy","reply_to":"commlib:reply:cXV1eHF1dXhiYXpiYXJmb28x"}}}}"#
    );
    match native::decode(&text.into()) {
        Ok((message, _)) => message,
        Err(error) => panic!("the vector is malformed: {error}"),
    }
}

fn envelopes(criterion: &mut Criterion) {
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(16 * 1024));
    for (name, body) in [("small", r#"{"a":1,"b":2}"#), ("16 KiB", large.as_str())] {
        let message = message(body);
        let reply_to = Some("commlib:reply:cXV1eHF1dXhiYXpiYXJmb28x");
        criterion.bench_function(&format!("encode {name}"), |bencher| {
            bencher.iter(|| native::encode(black_box(&message), reply_to));
        });
        let bytes = native::encode(&message, reply_to).into();
        criterion.bench_function(&format!("decode {name}"), |bencher| {
            bencher.iter(|| native::decode(black_box(&bytes)));
        });
    }
}

fn matching(criterion: &mut Criterion) {
    for pattern in ["sensors.sonar.front", "sensors.*.front", "sensors.#"] {
        let Ok(compiled) = Pattern::new(pattern) else {
            panic!("{pattern} is no pattern");
        };
        criterion.bench_function(&format!("match {pattern}"), |bencher| {
            bencher.iter(|| compiled.matches(black_box("sensors.sonar.front")));
        });
    }
}

fn dispatch(criterion: &mut Criterion) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("the runtime does not start: {error}"),
    };
    let client = runtime.block_on(async {
        let Ok(node) = Node::connect("memory://micro").await else {
            panic!("the in-process bus is not there");
        };
        if let Err(error) = node.serve(MicroServer::new(Handler)).await {
            panic!("serving failed: {error}");
        }
        MicroClient::new(&node)
    });
    criterion.bench_function("dispatch a call over memory", |bencher| {
        bencher.iter(
            || match runtime.block_on(client.add(black_box(1), 2).into_future()) {
                Ok(sum) => sum,
                Err(error) => panic!("the call failed: {error}"),
            },
        );
    });
}

criterion_group!(benches, envelopes, matching, dispatch);
criterion_main!(benches);
