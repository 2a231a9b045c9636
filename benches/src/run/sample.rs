//! What was measured, and medians of it.

use commlib_bench_protocol::Outcome;
use serde::{Deserialize, Serialize};

/// One phase of one system in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) system: String,
    pub(crate) phase: String,
    pub(crate) round: usize,
    pub(crate) outcome: Outcome,
    /// CPU seconds of client, server and broker.
    pub(crate) cpu: [f64; 3],
    /// Peak memory so far of client and server, MiB.
    pub(crate) peak_mib: [f64; 2],
}

impl Sample {
    /// Calls or messages per second.
    pub(crate) fn rate(&self) -> f64 {
        if self.outcome.seconds > 0.0 {
            self.outcome.count as f64 / self.outcome.seconds
        } else {
            0.0
        }
    }

    /// CPU seconds per 100,000 calls of client, server and broker.
    pub(crate) fn cpu_per_100k(&self) -> [f64; 3] {
        self.cpu
            .map(|seconds| seconds * 100_000.0 / (self.outcome.count.max(1) as f64))
    }
}

/// All samples of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    /// Systems that failed in a round, and how.
    pub(crate) failures: Vec<String>,
}

impl Results {
    /// The samples of a system in a phase.
    pub(crate) fn of<'a>(&'a self, system: &'a str, phase: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.system == system && sample.phase == phase)
    }

    /// Median, least and most of a figure over the rounds; `None` without samples.
    pub(crate) fn spread(
        &self,
        system: &str,
        phase: &str,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.of(system, phase).map(figure).collect())
    }
}

/// A median and what it lies between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of some values; `None` without any.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).expect("there are values");
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        let even = Spread::of(vec![4.0, 1.0]).expect("there are values");
        assert_eq!(even.median, 2.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
