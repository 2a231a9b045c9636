//! Phases by name.

use std::str::FromStr;

use commlib_bench_protocol::{Kind, Phase};

use crate::systems::System;

/// A phase as it is named on the command line and in tables.
#[derive(Clone, Debug)]
pub(crate) struct PhaseSpec {
    pub(crate) name: String,
    kind: Kind,
    number: usize,
    body: usize,
}

impl PhaseSpec {
    /// The order for it, without its number and times.
    pub(crate) fn phase(&self, system: &System) -> Phase {
        let (in_flight, rate) = match self.kind {
            Kind::Rpc => (self.number, 0),
            Kind::Pub => (system.window, self.number as u32),
        };
        Phase {
            number: 0,
            kind: self.kind,
            in_flight,
            body: self.body,
            rate,
            seconds: 0.0,
            warmup: 0.0,
        }
    }

    /// Whether a system can do it.
    pub(crate) fn is_for(&self, system: &System) -> bool {
        self.kind == system.kind
    }
}

impl FromStr for PhaseSpec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let wrong = || format!("{name} is no phase; examples are rpc64, rpc1.16k, pub, pub200.16k");
        let (base, body) = match name.split_once('.') {
            None => (name, 0),
            Some((base, size)) => {
                let kib = size.strip_suffix('k').and_then(|kib| kib.parse::<usize>().ok());
                (base, kib.ok_or_else(wrong)? * 1024)
            }
        };
        let (kind, number) = if let Some(number) = base.strip_prefix("rpc") {
            (Kind::Rpc, number.parse().map_err(|_| wrong())?)
        } else {
            match base.strip_prefix("pub") {
                Some("") => (Kind::Pub, 0),
                Some(number) => (Kind::Pub, number.parse().map_err(|_| wrong())?),
                None => return Err(wrong()),
            }
        };
        if kind == Kind::Rpc && number == 0 {
            return Err(wrong());
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            number,
            body,
        })
    }
}
