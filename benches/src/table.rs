//! Results as text.

use std::fmt::Write as _;

use crate::run::{PhaseSpec, Results};

/// A table per phase: medians, least and most, ratio of medians to the system `against`.
pub(crate) fn text(results: &Results, systems: &[String], phases: &[PhaseSpec], against: &str) -> String {
    let mut out = String::new();
    for spec in phases {
        let phase = spec.name.as_str();
        let reference = results.spread(against, phase, |sample| sample.rate());
        let reference_p50 = results.spread(against, phase, |sample| sample.outcome.p50);
        let _ = writeln!(
            out,
            "\n{phase} (× is to {against})\n{:<26} {:>10} {:>21} {:>7} {:>9} {:>7} {:>9} {:>9}  {:>22}  {:>11}  errors",
            "system",
            "per s",
            "(least–most)",
            "×",
            "p50 µs",
            "×",
            "p99 µs",
            "p99.9",
            "CPU s/100k cl+sv+br",
            "MiB cl+sv",
        );
        for system in systems {
            let Some(rate) = results.spread(system, phase, |sample| sample.rate()) else {
                continue;
            };
            let median = |figure: &dyn Fn(&crate::run::Sample) -> f64| {
                results
                    .spread(system, phase, figure)
                    .map_or(0.0, |spread| spread.median)
            };
            let p50 = median(&|sample| sample.outcome.p50);
            let cpu: [f64; 3] = std::array::from_fn(|index| median(&|sample| sample.cpu_per_100k()[index]));
            let peak: [f64; 2] = std::array::from_fn(|index| median(&|sample| sample.peak_mib[index]));
            let errors: u64 = results
                .of(system, phase)
                .map(|sample| sample.outcome.errors)
                .sum();
            let astray: u64 = results
                .of(system, phase)
                .map(|sample| sample.outcome.misdelivered)
                .sum();
            let fault = results
                .of(system, phase)
                .find_map(|sample| sample.outcome.error.clone());
            let ratio = |value: f64, reference: Option<f64>| match reference {
                Some(reference) if reference > 0.0 => format!("{:.2}", value / reference),
                _ => "–".to_owned(),
            };
            let _ = writeln!(
                out,
                "{system:<26} {:>10.0} {:>21} {:>7} {:>9.1} {:>7} {:>9.1} {:>9.1}  {:>22}  {:>11}  {errors}{}{}",
                rate.median,
                format!("({:.0}–{:.0})", rate.least, rate.most),
                ratio(rate.median, reference.map(|spread| spread.median)),
                p50,
                ratio(p50, reference_p50.map(|spread| spread.median)),
                median(&|sample| sample.outcome.p99),
                median(&|sample| sample.outcome.p999),
                format!("{:.2}+{:.2}+{:.2}", cpu[0], cpu[1], cpu[2]),
                format!("{:.1}+{:.1}", peak[0], peak[1]),
                if astray > 0 {
                    format!(" astray {astray}")
                } else {
                    String::new()
                },
                fault.map(|fault| format!(" ({fault})")).unwrap_or_default(),
            );
        }
    }
    out
}
