//! Messages that should not be: poison in a live queue, and clocks that are wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commlib_tests::eventually;
use serde_json::json;

use crate::load::Load;
use crate::raw::Raw;
use crate::world::{JobClient, SOON, World, answered};

/// Poison of every kind, again and again, while calls go on.
pub async fn poison_in_a_live_queue_stops_nobody(world: World) {
    let (_node, _, record) = world.serve(8).await;
    let node = world.node().await;
    let job = JobClient::new(&node);
    answered(&job).await;
    let raw = Raw::new(&world).await;
    let load = Load::start(std::slice::from_ref(&node), 8, 1);
    let address = world.address("job.run");
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 10] = [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"null",
        b"[1,2",
        b"{\"number\":\"one\"}",
        b"{\"number\":-1}",
        b"{\"data\":{\"number\":1},\"meta\":{\"id\":7,\"reply_to\":[]}}",
        b"{\"header\":{\"reply_to\":\"rpc-zz\"},\"data\":null}",
        deep.as_bytes(),
    ];
    for _ in 0..20 {
        for body in bodies {
            raw.push(&address, body).await;
        }
        // Else the calls would wait behind all of it, on a slow machine for longer than they may.
        load.succeeds(8).await;
    }
    // Where an answer is possible there is one, and it says what was wrong.
    for body in [
        &b"{\"number\":\"one\"}"[..],
        b"{}",
        b"3",
        b"{\"number\":\"\xff\"}",
    ] {
        let (code, execution) = raw.call(&address, body, None).await;
        assert_eq!(
            (code.as_str(), execution.as_str()),
            ("invalid_argument", "not_run"),
            "{body:?}"
        );
    }
    load.succeeds(100).await;
    eventually(SOON, || async {
        match raw.waiting(&address).await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let failed = load.check("poison", &record).await;
    assert_eq!(failed, 0, "neighbours of poison failed");
}

/// A request whose sender's clock is off by an hour, or writes nonsense, has all of its time.
pub async fn wrong_clocks_cost_no_call_its_time(world: World) {
    let (_node, _, record) = world.serve(8).await;
    answered(&JobClient::new(&world.node().await)).await;
    let raw = Raw::new(&world).await;
    let address = world.address("job.run");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let at = |offset: i64| i64::try_from(now.as_micros()).expect("in range") + offset * 1_000_000;
    let mut number = 0;
    let mut check = async |timestamp: serde_json::Value| {
        number += 1;
        let body = format!("{{\"number\":{number}}}");
        let answer = raw.call(&address, body.as_bytes(), Some(&timestamp)).await;
        assert_eq!(answer, (String::new(), String::new()), "{timestamp}");
        assert_eq!(record.runs(number), 1, "{timestamp}");
    };
    check(json!(at(3600))).await;
    check(json!(at(0))).await;
    check(json!(i64::MAX)).await;
    if world.broker.is_redis() {
        // There all stamp by the clock of the broker, so an old stamp is an old request.
        let body = format!("{{\"number\":{}}}", 1000);
        let (code, execution) = raw.call(&address, body.as_bytes(), Some(&json!(at(-3600)))).await;
        assert_eq!(
            (code.as_str(), execution.as_str()),
            ("deadline_exceeded", "not_run")
        );
    } else {
        // The broker drops what is too old, so an old stamp is that of a clock that is behind.
        for offset in [-3600, -30, -13] {
            check(json!(at(offset))).await;
        }
        check(json!(-1)).await;
        check(json!(0)).await;
    }
    // What is no time at all is refused, or taken for none; either way it is answered or dropped and the server lives.
    for nonsense in [json!("yesterday"), json!(1e300), json!([]), json!(null)] {
        let body = format!("{{\"number\":{}}}", 2000);
        let limit = Duration::from_secs(2);
        let _ = tokio::time::timeout(limit, raw.call(&address, body.as_bytes(), Some(&nonsense))).await;
    }
    answered(&JobClient::new(&world.node().await)).await;
}
