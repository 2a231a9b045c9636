//! The page of results: `docs/performance.md` and its plots.

mod goals;
mod machine;
mod plots;
mod short;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::overload::Overload;
use crate::run::plan::{GROWTH, Group, TABLES};
use crate::run::{Results, Sample};

/// What to make the page of.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The folder with `results.json`, `overload.json` and `sizes.txt`.
    #[arg(long, default_value = "target/bench")]
    from: PathBuf,
    /// The folder of the page.
    #[arg(long, default_value = "docs")]
    to: PathBuf,
    /// The page that gets the short table.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
    /// The command that made the results, for the page.
    #[arg(long, default_value = "scripts/bench")]
    command: String,
}

/// What was measured.
pub(crate) struct Report {
    pub(crate) results: Results,
    overload: Vec<Overload>,
    sizes: String,
}

impl Report {
    /// The backend and the sizes of both programs, in bytes.
    fn sizes(&self) -> impl Iterator<Item = [&str; 3]> {
        self.sizes.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some([words.next()?, words.next()?, words.next()?])
        })
    }
}

/// Writes the page.
pub(crate) fn write(options: &Options) -> anyhow::Result<()> {
    let read = |name: &str| std::fs::read_to_string(options.from.join(name));
    let results =
        serde_json::from_str(&read("results.json").context("no results.json: run the bench first")?)?;
    let overload = match read("overload.json") {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Vec::new(),
    };
    let report = Report {
        results,
        overload,
        sizes: read("sizes.txt").unwrap_or_default(),
    };
    let plots = plots::draw(&report.results, &options.to)?;
    let page = page(&report, &options.command, &plots);
    std::fs::write(options.to.join("performance.md"), page)?;
    short::update(&options.readme, &report.results)?;
    println!("{}", goals::table(&report));
    Ok(())
}

fn page(report: &Report, command: &str, plots: &[(String, String)]) -> String {
    let mut out = String::new();
    let rounds = report
        .results
        .samples
        .iter()
        .map(|sample| sample.round + 1)
        .max()
        .unwrap_or(0);
    let _ = writeln!(
        out,
        "# Performance\n\n<!-- Written by scripts/bench; do not edit. -->\n\n\
         How fast commlib is beside raw clients that do the same job by hand, and beside what a user might pick instead. \
         Absolute figures are of one machine on one day; the ratios are what counts. Made by `{command}`; rounds: {rounds}.\n"
    );
    out += &machine::describe();
    let _ = write!(
        out,
        "\n## Goals\n\nRatios of medians, all of the same run, default settings, deadlines and typed errors on. In brackets \
         the least and the most of the ratios within one round. ≥: more is better; ≤: less is better. The ratio of medians \
         decides; `within the spread` is a floor that it misses and the best round reaches.\n\n{}",
        goals::table(report)
    );
    let _ = write!(
        out,
        "\n### The same by hand\n\nWhere a goal compares with something that does another job (a queue that is not durable, Python) or \
         that swings from round to round (the naive loop on Redis), this is what the same job does by hand on the raw client: the \
         most that the broker and two cores give.\n\n{}",
        goals::by_hand(report)
    );
    out += METHOD;
    out += "\n## Tables\n\n× is the ratio of medians to the system named above the table. CPU is in seconds per 100,000 calls \
            or messages, of client (or publisher), server (or subscriber) and broker; one process where there is no server. \
            `.ct`: both processes on tokio's current-thread runtime; else multi-thread with 2 workers.\n";
    for group in TABLES {
        out += &tables(&report.results, group);
    }
    out += "\n## How cost grows\n\nOne round.\n";
    for (title, file) in plots {
        let _ = writeln!(out, "\n![{title}]({file})");
    }
    for group in GROWTH {
        out += &growth(&report.results, group);
    }
    out += &overload(&report.overload);
    if !report.results.failures.is_empty() {
        out += "\n## Failures\n\nSystems that could not be measured in a round:\n\n";
        for failure in &report.results.failures {
            let _ = writeln!(out, "- {}", failure.lines().next().unwrap_or_default());
        }
    }
    out
}

const METHOD: &str = include_str!("method.md");

fn tables(results: &Results, group: &Group) -> String {
    let mut out = format!("\n### {}\n", group.title);
    for phase in group.phases {
        let is_topic = phase.starts_with("pub");
        let median = |system: &str, figure: fn(&Sample) -> f64| {
            results.spread(system, phase, figure).map(|spread| spread.median)
        };
        let base = [
            median(group.against, Sample::rate),
            median(group.against, |sample| sample.outcome.p50),
        ];
        let _ = write!(
            out,
            "\n{}; × to `{}`.\n\n| system | {}/s | least–most | × | p50 µs | × | p99 µs | p99.9 µs | CPU s/100k | MiB | wrong |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            describe(phase),
            group.against,
            if is_topic { "messages" } else { "calls" },
        );
        for system in group.systems {
            let Some(rate) = results.spread(system, phase, Sample::rate) else {
                continue;
            };
            let of = |figure: fn(&Sample) -> f64| median(system, figure).unwrap_or(0.0);
            let ratio = |value: f64, base: Option<f64>| match base {
                Some(base) if base > 0.0 => format!("{:.2}", value / base),
                _ => "–".to_owned(),
            };
            let p50 = of(|sample| sample.outcome.p50);
            let wrong: u64 = results
                .of(system, phase)
                .map(|sample| sample.outcome.errors + sample.outcome.misdelivered)
                .sum();
            let _ = writeln!(
                out,
                "| `{system}` | {} | {}–{} | {} | {} | {} | {} | {} | {:.2} / {:.2} / {:.2} | {:.0} + {:.0} | {wrong} |",
                thousands(rate.median),
                thousands(rate.least),
                thousands(rate.most),
                ratio(rate.median, base[0]),
                short(p50),
                ratio(p50, base[1]),
                short(of(|sample| sample.outcome.p99)),
                short(of(|sample| sample.outcome.p999)),
                of(|sample| sample.cpu_per_100k()[0]),
                of(|sample| sample.cpu_per_100k()[1]),
                of(|sample| sample.cpu_per_100k()[2]),
                of(|sample| sample.peak_mib[0]),
                of(|sample| sample.peak_mib[1]),
            );
        }
    }
    out
}

fn growth(results: &Results, group: &Group) -> String {
    let mut out = format!(
        "\n### By {}\n\n| system | phase | per s | p50 µs | p99 µs | MiB | wrong |\n|---|---|--:|--:|--:|--:|--:|\n",
        group.title
    );
    for system in group.systems {
        for phase in group.phases {
            for sample in results.of(system, phase).take(1) {
                let outcome = &sample.outcome;
                let _ = writeln!(
                    out,
                    "| `{system}` | {phase} | {} | {} | {} | {:.0} + {:.0} | {} |",
                    thousands(sample.rate()),
                    short(outcome.p50),
                    short(outcome.p99),
                    sample.peak_mib[0],
                    sample.peak_mib[1],
                    outcome.errors + outcome.misdelivered,
                );
            }
        }
    }
    out
}

fn overload(rows: &[Overload]) -> String {
    let mut out = String::new();
    if rows.is_empty() {
        return out;
    }
    out += "\n## Overload\n\nA server that can do a known number of calls per second (each takes 10 ms, 16 at a time) gets ten \
            times as many from two clients that do not wait for replies. `peak` is what it does for callers that wait. \
            With the default settings 10,000 requests wait at the broker, and each answer has waited for all of them; the \
            rows with a longest wait are of a server with `.max_wait(…)`. From the first refusal on the clients refuse most \
            calls by themselves (`Limits::refusals`).\n\n\
            | transport | longest wait | peak/s | offered/s | answered/s | of peak | refused | p50, p99 ms of a refusal | p50, p99 ms of an \
            answer | other errors | share of client 1 | MiB client, server |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in rows {
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} % | {} | {:.2}, {:.2} | {:.0}, {:.0} | {} | {:.0} % | {:.0}, {:.0} |",
            row.transport,
            row.max_wait_ms
                .map_or("default".to_owned(), |limit| format!("{limit} ms")),
            row.peak,
            row.offered,
            row.answered,
            100.0 * row.answered / row.peak,
            thousands(row.refused as f64),
            row.refusal_ms[0],
            row.refusal_ms[1],
            row.answer_ms[0],
            row.answer_ms[1],
            row.other,
            100.0 * row.share,
            row.peak_mib[0],
            row.peak_mib[1],
        );
    }
    out
}

fn describe(phase: &str) -> String {
    let (base, size) = phase
        .split_once('.')
        .map_or((phase, ""), |(base, _)| (base, ", 16 KiB bodies"));
    match base.strip_prefix("rpc") {
        Some(number) => format!("**{number} in flight{size}**"),
        None if base == "pub" => format!("**Flat out{size}**"),
        None => format!("**{} messages a second{size}**", base.trim_start_matches("pub")),
    }
}

/// A latency with as many digits as it deserves.
fn short(microseconds: f64) -> String {
    if microseconds < 100.0 {
        format!("{microseconds:.1}")
    } else {
        thousands(microseconds)
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
