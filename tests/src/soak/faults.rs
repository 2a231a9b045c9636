//! What is done to brokers, connections and servers, drawn from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::server::Settings;
use super::stage::Stage;
use crate::{Direction, Flow};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// SIGKILL to the broker, which is started again at once with its data.
    Kill,
    /// SIGSTOP to the broker, and SIGCONT later.
    Freeze,
    /// RST to all connections.
    Reset,
    /// What is sent vanishes, in one direction or both. Connections stay dead afterwards, new ones live.
    BlackHole,
    /// SIGKILL to one of the servers; another one is started.
    Server,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Kill,
        Self::Freeze,
        Self::Reset,
        Self::BlackHole,
        Self::Server,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Reset => "reset",
            Self::BlackHole => "blackhole",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|fault| fault.name() == text);
        known.ok_or_else(|| format!("{text:?} is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// When and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From one fault to the next. A fault that takes longer puts the next one off.
    pub every: Duration,
    /// How long the broker is frozen.
    pub freeze: Duration,
    /// How long bytes vanish.
    pub hole: Duration,
}

impl Pace {
    /// As the project promises to survive it.
    pub const FULL: Self = Self {
        every: Duration::from_secs(10),
        freeze: Duration::from_secs(5),
        hole: Duration::from_secs(10),
    };
}

/// One fault of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// When it begins, since the beginning of the run.
    pub at: Duration,
    /// What is done.
    pub fault: Fault,
    /// For a black hole the direction (none is both), for a server which one.
    draw: u32,
}

impl Step {
    fn hole(self) -> Option<Direction> {
        match self.draw % 3 {
            0 => None,
            1 => Some(Direction::ToBroker),
            _ => Some(Direction::ToClient),
        }
    }

    /// Does it, and returns when it is over.
    pub(super) async fn apply(self, stage: &Stage, pace: &Pace, settings: &Settings) {
        match self.fault {
            Fault::Kill => {
                stage.broker.kill().await;
                stage.broker.restart().await;
            }
            Fault::Freeze => {
                stage.broker.freeze();
                tokio::time::sleep(pace.freeze).await;
                stage.broker.thaw();
            }
            Fault::Reset => stage.proxy.reset().await,
            Fault::BlackHole => {
                match self.hole() {
                    None => stage.proxy.set(Flow::Swallow),
                    Some(direction) => stage.proxy.set_one(direction, Flow::Swallow),
                }
                tokio::time::sleep(pace.hole).await;
                stage.proxy.set(Flow::Pass);
            }
            Fault::Server => {
                stage.take_server(self.draw as usize).kill().await;
                stage.start_server(settings).await;
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, fault) = (self.at, self.fault);
        match fault {
            Fault::BlackHole => match self.hole() {
                None => write!(f, "{at:.1?} {fault} both ways"),
                Some(direction) => write!(f, "{at:.1?} {fault} {direction:?}"),
            },
            Fault::Server => write!(f, "{at:.1?} {fault} {}", self.draw % 3),
            _ => write!(f, "{at:.1?} {fault}"),
        }
    }
}

/// The schedule of a seed: all faults in an order that it draws, again and again, each up to a tenth of the interval
/// early; none so late that there is less than an interval to come back before `end`.
#[must_use]
pub fn schedule(seed: u64, faults: &[Fault], pace: &Pace, end: Duration) -> Vec<Step> {
    let mut draw = StdRng::seed_from_u64(seed);
    let mut deck = Vec::new();
    let mut steps = Vec::new();
    let mut turn = pace.every / 2;
    while turn + pace.every <= end && !faults.is_empty() {
        if deck.is_empty() {
            deck = faults.to_vec();
            deck.shuffle(&mut draw);
        }
        let Some(fault) = deck.pop() else { break };
        let early = pace.every.mul_f64(draw.random_range(0.0..0.1));
        steps.push(Step {
            at: turn - early,
            fault,
            draw: draw.random(),
        });
        turn += pace.every;
    }
    steps
}
