//! Long runs under real faults, each in a bounded form for `scripts/test` and in full for `scripts/soak`.
//!
//! A run starts a broker of its own with a fault proxy before it, servers in processes of their own (the program
//! `commlib-soak serve`), and clients in this process or in killed ones. All of it is drawn from a seed, which is
//! part of every report.

pub mod brokers;
pub mod client;
pub mod contract;
pub mod deadlines;
pub mod drain;
pub mod faults;
pub mod leaks;
pub mod ledger_run;
pub mod load;
pub mod recovery;
pub mod report;
pub mod runs;
pub mod server;
pub mod stage;

pub use brokers::{Broker, BrokerKind};
pub use deadlines::DeadlineRun;
pub use drain::DrainRun;
pub use faults::{Fault, Pace};
pub use leaks::LeakRun;
pub use ledger_run::LedgerRun;
pub use load::Load;
pub use recovery::RecoveryRun;
pub use report::Report;
pub use server::{Settings, serve};

use std::path::PathBuf;

/// One run of any kind.
#[derive(Debug, Clone)]
pub enum Run {
    /// See [`LedgerRun`].
    Ledger(LedgerRun),
    /// See [`DrainRun`].
    Drain(DrainRun),
    /// See [`DeadlineRun`].
    Deadlines(DeadlineRun),
    /// See [`LeakRun`].
    Leaks(LeakRun),
    /// See [`RecoveryRun`].
    Recovery(RecoveryRun),
}

impl Run {
    /// Runs it; `program` is `commlib-soak`.
    ///
    /// # Panics
    /// When a broker or a server does not start.
    pub async fn run(self, program: PathBuf) -> Report {
        match self {
            Self::Ledger(run) => run.run(program).await,
            Self::Drain(run) => run.run(program).await,
            Self::Deadlines(run) => run.run(program).await,
            Self::Leaks(run) => run.run(program).await,
            Self::Recovery(run) => run.run(program).await,
        }
    }
}
