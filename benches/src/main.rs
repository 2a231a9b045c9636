//! Measures commlib beside raw clients and its peers: `run` is the bench, `serve` and `drive` are the processes of one
//! system. `scripts/bench` builds and calls it.

mod overload;
mod process;
mod report;
mod rpc;
mod run;
mod systems;
mod table;
mod topics;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "commlib-bench",
    about = "Measures commlib beside raw clients and its peers"
)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Starts brokers, runs systems interleaved, prints tables.
    Run(run::Options),
    /// Runs what the page of results needs.
    All(run::AllOptions),
    /// Puts ten times the load on a slow server that it can do.
    Overload(overload::Options),
    /// Writes the page of results.
    Report(report::Options),
    /// Lists the systems.
    Systems,
    /// Is the server process of a system.
    Serve {
        system: String,
        #[arg(long, default_value = "")]
        broker: String,
    },
    /// Is the client process of a system.
    Drive {
        system: String,
        #[arg(long, default_value = "")]
        broker: String,
    },
    /// Is the slow server of `overload`.
    SlowServer(overload::Place),
    /// Is a client of `overload`.
    SlowClient {
        #[command(flatten)]
        place: overload::Place,
        #[arg(long, default_value_t = 1)]
        nodes: usize,
    },
    /// Makes so many calls over memory:// on one thread, for counting instructions.
    Count { calls: u64 },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().role {
        Role::Run(options) => runtime(false)?.block_on(run::run(options)),
        Role::All(options) => runtime(false)?.block_on(run::all(options)),
        Role::Overload(options) => runtime(false)?.block_on(overload::run(options)),
        Role::Report(options) => report::write(&options),
        Role::SlowServer(place) => runtime(false)?.block_on(overload::serve(&place)),
        Role::SlowClient { place, nodes } => runtime(false)?.block_on(overload::drive(&place, nodes)),
        Role::Systems => {
            for system in systems::SYSTEMS {
                println!("{:<24} {}", system.name, system.about);
            }
            Ok(())
        }
        Role::Serve { system, broker } => {
            let (name, variant) = systems::split(&system)?;
            runtime(variant.single)?.block_on(systems::serve(name, variant, &broker))
        }
        Role::Drive { system, broker } => {
            let (name, variant) = systems::split(&system)?;
            runtime(variant.single)?.block_on(systems::drive(name, variant, &broker))
        }
        Role::Count { calls } => runtime(true)?.block_on(rpc::ours::count(calls)),
    }
}

/// One thread, or two workers whatever the machine has, so that figures of machines can be set side by side.
fn runtime(single: bool) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime does not start")
}
