//! The goals: what is measured against what, and what the ratio must be.

use super::Report;
use crate::run::{Results, Sample};

/// A figure of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Rate,
    P50,
    /// CPU of client and server per call.
    Cpu,
    /// Peak memory of the client, over all phases.
    ClientPeak,
    /// Peak memory of the server, over all phases.
    ServerPeak,
}

impl Figure {
    fn of(self, sample: &Sample) -> f64 {
        let [client, server, _] = sample.cpu_per_100k();
        match self {
            Self::Rate => sample.rate(),
            Self::P50 => sample.outcome.p50,
            Self::Cpu => client + server,
            Self::ClientPeak => sample.peak_mib[0],
            Self::ServerPeak => sample.peak_mib[1],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::P50 => "p50",
            Self::Cpu => "CPU per call",
            Self::ClientPeak => "client's peak memory",
            Self::ServerPeak => "server's peak memory",
        }
    }
}

/// A row of the table of goals.
struct Goal {
    work: &'static str,
    figure: Figure,
    phase: &'static str,
    ours: &'static str,
    theirs: &'static str,
    floor: f64,
    goal: f64,
}

const fn goal(
    work: &'static str,
    figure: Figure,
    phase: &'static str,
    ours: &'static str,
    theirs: &'static str,
    [floor, goal]: [f64; 2],
) -> Goal {
    Goal {
        work,
        figure,
        phase,
        ours,
        theirs,
        floor,
        goal,
    }
}

#[rustfmt::skip] // A table.
const GOALS: &[Goal] = &[
    goal("Redis RPC, 64 in flight", Figure::Rate, "rpc64", "commlib.redis", "redis.opt", [0.80, 1.0]),
    goal("Redis RPC, 256 in flight", Figure::Rate, "rpc256", "commlib.redis", "redis.opt", [0.75, 1.0]),
    goal("Redis RPC, 64 in flight", Figure::Rate, "rpc64", "commlib.redis", "nats", [1.2, 1.8]),
    goal("Redis RPC, 1 in flight", Figure::P50, "rpc1", "commlib.redis", "redis.seed", [1.0, 0.9]),
    goal("Redis RPC, 1 in flight", Figure::P50, "rpc1", "commlib.redis", "redis.opt", [1.15, 1.0]),
    goal("Redis RPC, callers with a list per call, 64 in flight", Figure::Rate, "rpc64", "commlib.redis.perlist", "redis.seed", [7.5, 9.5]),
    goal("AMQP RPC, acked, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp", "lapin.ack64", [1.45, 1.8]),
    goal("AMQP RPC, acked, 256 in flight", Figure::Rate, "rpc256", "commlib.amqp", "lapin.ack64", [1.45, 1.8]),
    goal("AMQP RPC, acked, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp", "lapin.ack64.spawn", [0.90, 1.0]),
    goal("AMQP RPC, no-ack option, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp.noack", "lapin.noack", [1.20, 1.5]),
    goal("AMQP RPC, acked, 1 in flight", Figure::P50, "rpc1", "commlib.amqp", "lapin.ack64", [1.15, 1.05]),
    goal("AMQP RPC, acked, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp", "kanin", [1.05, 1.3]),
    goal("AMQP RPC, acked, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp", "ruststream.w64", [0.95, 1.1]),
    goal("topics on Redis, flat out", Figure::Rate, "pub", "ps.commlib.redis", "ps.redis.pipe64", [0.80, 1.0]),
    goal("topics on Redis, 200/s", Figure::P50, "pub200", "ps.commlib.redis", "ps.redis.pipe64", [1.15, 1.0]),
    goal("durable topics on Redis, flat out", Figure::Rate, "pub", "ps.commlib.redis.durable", "ps.ruststream.stream.pipe64", [1.0, 1.5]),
    goal("durable topics on AMQP, flat out", Figure::Rate, "pub", "ps.commlib.amqp.durable", "ps.ruststream.rabbit.pipe64", [1.0, 1.5]),
    goal("acknowledged topics on AMQP, flat out", Figure::Rate, "pub", "ps.commlib.amqp.acked", "ps.ruststream.rabbit.pipe64", [1.0, 1.5]),
    goal("topics on AMQP, flat out, unconfirmed", Figure::Rate, "pub", "ps.commlib.amqp.unconfirmed", "ps.lapin", [1.6, 1.9]),
    goal("topics on AMQP, flat out, confirmed", Figure::Rate, "pub", "ps.commlib.amqp", "ps.lapin", [0.8, 1.0]),
    goal("memory RPC, 1 in flight", Figure::P50, "rpc1", "commlib.memory", "tarpc.inproc", [0.55, 0.35]),
    goal("memory RPC, 1 in flight, one thread", Figure::P50, "rpc1", "commlib.memory.ct", "tarpc.inproc.ct", [0.55, 0.35]),
    goal("memory RPC, 64 in flight", Figure::Rate, "rpc64", "commlib.memory", "tarpc.inproc", [1.5, 2.2]),
    goal("memory RPC, 64 in flight, one thread", Figure::Rate, "rpc64", "commlib.memory.ct", "tarpc.inproc.ct", [1.5, 2.2]),
    goal("memory RPC, 64 in flight", Figure::Cpu, "rpc64", "commlib.memory", "tarpc.inproc", [0.6, 0.4]),
    goal("memory RPC, 64 in flight, one thread", Figure::Cpu, "rpc64", "commlib.memory.ct", "tarpc.inproc.ct", [0.6, 0.4]),
    goal("memory topics, flat out", Figure::Rate, "pub", "ps.commlib.memory", "ps.floor.mpsc", [0.45, 0.7]),
    goal("Redis RPC, 64 in flight", Figure::Cpu, "rpc64", "commlib.redis", "redis.opt", [1.4, 1.0]),
    goal("AMQP RPC, acked, 64 in flight", Figure::Cpu, "rpc64", "commlib.amqp", "lapin.ack64", [0.65, 0.55]),
    goal("Redis RPC, 16 KiB, 64 in flight", Figure::Rate, "rpc64.16k", "commlib.redis", "redis.opt", [0.85, 1.1]),
    goal("AMQP RPC, 16 KiB, 64 in flight", Figure::Rate, "rpc64.16k", "commlib.amqp", "lapin.noack", [0.95, 1.2]),
    goal("Redis RPC, 64 in flight", Figure::Rate, "rpc64", "commlib.redis", "commlib-py.redis", [50.0, 80.0]),
    goal("AMQP RPC, 64 in flight", Figure::Rate, "rpc64", "commlib.amqp", "commlib-py.amqp", [14.0, 20.0]),
    goal("Redis RPC", Figure::ClientPeak, "", "commlib.redis", "redis.opt", [1.5, 1.2]),
    goal("Redis RPC", Figure::ServerPeak, "", "commlib.redis", "redis.opt", [1.5, 1.2]),
    goal("AMQP RPC", Figure::ClientPeak, "", "commlib.amqp", "lapin.ack64", [1.5, 1.2]),
    goal("AMQP RPC", Figure::ServerPeak, "", "commlib.amqp", "lapin.ack64", [1.5, 1.2]),
];

/// The same jobs by hand, where a goal compares with something that does another job, or that swings.
#[rustfmt::skip] // A table.
const BY_HAND: &[(&str, &str, &str, &str)] = &[
    ("Redis RPC, callers with a list per call, 64 in flight", "rpc64", "commlib.redis.perlist", "redis.interop"),
    ("AMQP RPC, acked, 64 in flight", "rpc64", "commlib.amqp", "lapin.noack.spawn"),
    ("topics on AMQP, flat out, unconfirmed", "pub", "ps.commlib.amqp.unconfirmed", "ps.lapin.pipe64"),
    ("topics on AMQP, flat out, confirmed", "pub", "ps.commlib.amqp", "ps.lapin.confirm.pipe64"),
    ("durable topics on AMQP, flat out", "pub", "ps.commlib.amqp.durable", "ps.lapin.durable.pipe64"),
];

/// The rows about what is done by hand as a table of Markdown.
pub(super) fn by_hand(report: &Report) -> String {
    let mut rows = vec![
        "| work, per second | ours / by hand | measured (least–most) |".to_owned(),
        "|---|---|--:|".to_owned(),
    ];
    for (work, phase, ours, theirs) in BY_HAND {
        let measured = ratio(&report.results, Figure::Rate, phase, [ours, theirs]);
        let measured = measured.map_or("not measured".to_owned(), |[least, ratio, most]| {
            format!("{ratio:.2} ({least:.2}–{most:.2})")
        });
        rows.push(format!("| {work} | `{ours}` / `{theirs}` | {measured} |"));
    }
    rows.join("\n") + "\n"
}

/// The rows as a table of Markdown.
pub(super) fn table(report: &Report) -> String {
    let mut rows = vec![
        "| work | figure | ours / against | floor | goal | measured (least–most) | verdict |".to_owned(),
        "|---|---|---|--:|--:|--:|---|".to_owned(),
    ];
    for goal in GOALS {
        rows.push(row(&report.results, goal));
    }
    for [name, ours, theirs] in report.sizes() {
        let against = format!("example with only {name}, no `durable` / the raw client");
        let ratio = theirs
            .parse::<f64>()
            .ok()
            .zip(ours.parse::<f64>().ok())
            .map(|(theirs, ours)| ours / theirs);
        let measured = ratio.map_or("not measured".to_owned(), |ratio| format!("{ratio:.2}"));
        let verdict = ratio.map_or("–", |ratio| verdict([ratio; 3], 1.6, 1.25));
        rows.push(format!(
            "| stripped size of the same example | bytes | {against} | ≤ 1.6 | ≤ 1.25 | {measured} | {verdict} |"
        ));
    }
    let wrong: u64 = report
        .results
        .samples
        .iter()
        .filter(|sample| sample.system.starts_with("commlib.") || sample.system.starts_with("ps.commlib."))
        .filter(|sample| !sample.system.contains('@'))
        .map(|sample| sample.outcome.errors + sample.outcome.misdelivered)
        .sum();
    let verdict = if wrong == 0 {
        "goal met"
    } else {
        "**floor missed**"
    };
    rows.push(format!(
        "| loss, misdelivery, errors at default settings | count | commlib in all tables | 0 | 0 | {wrong} | {verdict} |"
    ));
    rows.join("\n") + "\n"
}

fn row(results: &Results, goal: &Goal) -> String {
    let sign = if goal.goal > goal.floor { "≥" } else { "≤" };
    let what = format!(
        "| {} | {} | `{}` / `{}` | {sign} {} | {sign} {} |",
        goal.work,
        goal.figure.name(),
        goal.ours,
        goal.theirs,
        goal.floor,
        goal.goal
    );
    let Some([least, ratio, most]) = ratio(results, goal.figure, goal.phase, [goal.ours, goal.theirs]) else {
        return format!("{what} not measured | – |");
    };
    let verdict = verdict([least, ratio, most], goal.floor, goal.goal);
    format!("{what} {ratio:.2} ({least:.2}–{most:.2}) | {verdict} |")
}

/// The ratio of the medians of two systems, between the least and the most within one round.
fn ratio(results: &Results, figure: Figure, phase: &str, [ours, theirs]: [&str; 2]) -> Option<[f64; 3]> {
    let figures = |system: &str| -> Vec<(usize, f64)> {
        if phase.is_empty() {
            peaks(results, system, figure)
        } else {
            results
                .of(system, phase)
                .map(|sample| (sample.round, figure.of(sample)))
                .collect()
        }
    };
    let (ours, theirs) = (figures(ours), figures(theirs));
    let ratio = median(&ours)? / median(&theirs)?;
    let same_round = ours.iter().filter_map(|(round, figure)| {
        let (_, other) = theirs.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then_some(figure / other)
    });
    let (least, most) = same_round.fold((f64::MAX, f64::MIN), |(least, most), ratio| {
        (least.min(ratio), most.max(ratio))
    });
    Some([least, ratio, most])
}

/// What the ratio of medians says, which decides; and of a floor that is missed, whether some round reached it.
fn verdict([least, ratio, most]: [f64; 3], floor: f64, goal: f64) -> &'static str {
    let more_is_better = goal > floor;
    let reaches = |ratio: f64, bound: f64| {
        if more_is_better {
            ratio >= bound
        } else {
            ratio <= bound
        }
    };
    let best = if more_is_better { most } else { least };
    if reaches(ratio, goal) {
        "goal met"
    } else if reaches(ratio, floor) {
        "floor met"
    } else if reaches(best, floor) {
        "**floor missed**, within the spread"
    } else {
        "**floor missed**"
    }
}

/// The highest figure of a system in each round.
fn peaks(results: &Results, system: &str, figure: Figure) -> Vec<(usize, f64)> {
    let mut peaks: Vec<(usize, f64)> = Vec::new();
    for sample in results.samples.iter().filter(|sample| sample.system == system) {
        let value = figure.of(sample);
        match peaks.iter_mut().find(|(round, _)| *round == sample.round) {
            Some((_, peak)) => *peak = peak.max(value),
            None => peaks.push((sample.round, value)),
        }
    }
    peaks
}

fn median(figures: &[(usize, f64)]) -> Option<f64> {
    crate::run::Spread::of(figures.iter().map(|(_, figure)| *figure).collect()).map(|spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn a_verdict_knows_which_way_is_better() {
        let of = |ratio: f64, floor, goal| verdict([ratio - 0.05, ratio, ratio + 0.05], floor, goal);
        assert_eq!(of(1.0, 0.8, 1.0), "goal met");
        assert_eq!(of(0.9, 0.8, 1.0), "floor met");
        assert_eq!(of(0.79, 0.8, 1.0), "**floor missed**, within the spread");
        assert_eq!(of(0.7, 0.8, 1.0), "**floor missed**");
        assert_eq!(of(0.3, 0.55, 0.35), "goal met");
        assert_eq!(of(0.5, 0.55, 0.35), "floor met");
        assert_eq!(of(0.58, 0.55, 0.35), "**floor missed**, within the spread");
        assert_eq!(of(0.62, 0.55, 0.35), "**floor missed**");
    }
}
