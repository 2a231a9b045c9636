//! The short table in the README.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::{short, thousands};
use crate::run::{Results, Sample};

const BEGIN: &str = "<!-- Written by scripts/bench. -->\n";
const END: &str = "<!-- End of what scripts/bench writes. -->";

/// A transport, our system on it, and what stands beside it with the words for it.
type Row = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ROWS: &[Row] = &[
    (
        "Redis",
        "commlib.redis",
        &[
            ("redis.opt", "the best scheme by hand on the redis crate"),
            ("redis.seed", "the naive loop on the redis crate"),
            ("commlib-py.redis", "commlib-py"),
            ("faststream.redis", "FastStream"),
            ("nats", "NATS request/reply, async-nats"),
        ],
    ),
    (
        "RabbitMQ, acknowledged",
        "commlib.amqp",
        &[
            ("lapin.ack64.spawn", "lapin by hand, a task per request"),
            ("lapin.ack64", "lapin by hand, in a loop"),
            ("ruststream.w64", "RustStream, 64 workers"),
            ("kanin", "kanin"),
            ("commlib-py.amqp", "commlib-py"),
            ("faststream.rabbit", "FastStream"),
        ],
    ),
    (
        "in process",
        "commlib.memory",
        &[("tarpc.inproc", "tarpc, which does not encode there")],
    ),
];

/// Puts the table between its two marks.
pub(super) fn update(file: &Path, results: &Results) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the page has no place for the short table")?;
    let (_, after) = rest
        .split_once(END)
        .context("the place for the short table has no end")?;
    let table = table(results);
    std::fs::write(file, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}

fn table(results: &Results) -> String {
    let mut out = "| Over | | calls/s, 64 in flight | p50, 1 in flight | commlib does, of its calls/s |\n|---|---|--:|--:|--:|\n".to_owned();
    for (transport, ours, others) in ROWS {
        let Some(own) = results.spread(ours, "rpc64", Sample::rate) else {
            continue;
        };
        let mut row = |system: &str, words: &str| {
            let rate = results.spread(system, "rpc64", Sample::rate);
            let p50 = results.spread(system, "rpc1", |sample| sample.outcome.p50);
            if let (Some(rate), Some(p50)) = (rate, p50) {
                let ratio = if system == *ours {
                    String::new()
                } else {
                    format!("× {:.2}", own.median / rate.median)
                };
                let (rate, p50) = (thousands(rate.median), short(p50.median));
                let _ = writeln!(out, "| {transport} | {words} | {rate} | {p50} µs | {ratio} |");
            }
        };
        row(ours, "**commlib**");
        for (system, words) in *others {
            row(system, words);
        }
    }
    out
}
