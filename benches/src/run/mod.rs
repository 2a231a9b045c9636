//! The bench: all systems in every round, one after the other, each with its own processes.

mod brokers;
mod phases;
pub(crate) mod plan;
mod sample;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use commlib_bench_protocol::{Collect, Kind, Outcome, Phase};
use tokio::process::Command;

pub(crate) use self::brokers::Brokers;
pub(crate) use self::phases::PhaseSpec;
use self::plan::{GROWTH, Group, TABLES};
pub(crate) use self::sample::{Results, Sample, Spread};
use crate::process::{Process, cpu_seconds, peak_mib};
use crate::systems::{self, Program, System};
use crate::table;

/// More than the longest that a process takes for the calls that are never answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Systems, by comma; `.ct` after a name is the current-thread runtime in both processes.
    #[arg(long, value_delimiter = ',', required = true)]
    systems: Vec<String>,
    /// Phases, by comma: rpcN for N calls in flight, pubN for N messages a second or pub for flat out; `.16k` after it
    /// for bodies of 16 KiB.
    #[arg(long, value_delimiter = ',', default_value = "rpc1,rpc64")]
    phases: Vec<PhaseSpec>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each phase measures.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How long each phase works before that.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// The system that the × columns compare with; the first one if not given.
    #[arg(long)]
    against: Option<String>,
    /// Writes all samples to this file, as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What to run for the page of results.
#[derive(Args, Clone, Debug)]
pub(crate) struct AllOptions {
    /// Short: no peers, no growth.
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each phase measures.
    #[arg(long, default_value_t = 0.8)]
    seconds: f64,
    /// How long each phase works before that.
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// The file that all samples are written to.
    #[arg(long, default_value = "target/bench/results.json")]
    out: PathBuf,
}

/// Runs the plan. What failed is in the results; it is an error if commlib failed or lost or mixed up anything.
pub(crate) async fn all(options: AllOptions) -> anyhow::Result<()> {
    let groups: Vec<&Group> = TABLES
        .iter()
        .chain(GROWTH)
        .filter(|group| group.quick || !options.quick)
        .collect();
    let mut needed = Vec::new();
    for system in groups.iter().flat_map(|group| group.systems) {
        let system = systems::find(system)?;
        if !options.quick || system.program == Program::Own {
            needed.push(system.broker);
        }
    }
    let brokers = Brokers::start(&needed).await?;
    let mut results = Results::default();
    for round in 0..options.rounds {
        for group in groups.iter().filter(|group| round < group.rounds) {
            let phases = group.phases.iter().map(|phase| phase.parse::<PhaseSpec>());
            let run = Options {
                systems: Vec::new(),
                phases: phases.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?,
                rounds: options.rounds,
                seconds: options.seconds,
                warmup: options.warmup,
                against: None,
                out: None,
            };
            for name in group.systems {
                let system = systems::find(name)?;
                if options.quick && system.program != Program::Own {
                    continue;
                }
                attempt(&run, &brokers, round, name, &system, &mut results).await;
            }
        }
        eprintln!("round {} of {} is over", round + 1, options.rounds);
        if let Some(folder) = options.out.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&options.out, serde_json::to_vec(&results)?)?;
    }
    // A subscriber that is flooded drops messages and says so; that is in the tables and no failure of the run.
    let wrong: Vec<String> = results
        .samples
        .iter()
        .filter(|sample| sample.system.contains("commlib."))
        .filter(|sample| {
            let flooded = sample.phase == "pub" || sample.phase.starts_with("pub.");
            sample.outcome.misdelivered > 0 || (sample.outcome.errors > 0 && !flooded)
        })
        .map(|sample| format!("{} {}: {:?}", sample.system, sample.phase, sample.outcome))
        .collect();
    anyhow::ensure!(
        wrong.is_empty() && results.failures.is_empty(),
        "went wrong: {} {}",
        wrong.join("; "),
        results.failures.join("; ")
    );
    Ok(())
}

/// Runs one system; a failure is noted and ends nothing.
async fn attempt(
    options: &Options,
    brokers: &Brokers,
    round: usize,
    name: &str,
    system: &System,
    results: &mut Results,
) {
    if let Err(error) = one_system(options, brokers, round, name, system, results).await {
        let failure = format!("{name}, round {}: {error:#}", round + 1);
        eprintln!("{failure}");
        results.failures.push(failure);
    }
}

/// Runs and prints. A system that fails in a round does not end the run, but the run then ends with an error.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let all = options
        .systems
        .iter()
        .map(|name| Ok((name.clone(), systems::find(name)?)))
        .collect::<anyhow::Result<Vec<(String, System)>>>()?;
    let needed: Vec<_> = all.iter().map(|(_, system)| system.broker).collect();
    let brokers = Brokers::start(&needed).await?;
    let mut results = Results::default();
    for round in 0..options.rounds {
        for (name, system) in &all {
            attempt(&options, &brokers, round, name, system, &mut results).await;
        }
        eprintln!("round {} of {} is over", round + 1, options.rounds);
    }
    if let Some(file) = &options.out {
        std::fs::write(file, serde_json::to_vec(&results)?)?;
    }
    let against = options.against.as_ref().unwrap_or(&options.systems[0]);
    print!(
        "{}",
        table::text(&results, &options.systems, &options.phases, against)
    );
    Ok(())
}

async fn one_system(
    options: &Options,
    brokers: &Brokers,
    round: usize,
    name: &str,
    system: &System,
    results: &mut Results,
) -> anyhow::Result<()> {
    let url = brokers.url(system.broker)?;
    let command = |role: &str| -> anyhow::Result<Command> {
        let mut command = program(system.program)?;
        command.args([role, name, "--broker"]).arg(&url);
        Ok(command)
    };
    let mut server = if system.in_process {
        None
    } else {
        Some(Process::start(format!("the server of {name}"), command("serve")?).await?)
    };
    let mut client = Process::start(format!("the client of {name}"), command("drive")?).await?;
    let server_pid = server.as_ref().and_then(Process::pid);
    let broker_pid = brokers.pid(system.broker);
    let clocks = |client: &Process| {
        [
            cpu_seconds(client.pid()),
            cpu_seconds(server_pid),
            cpu_seconds(broker_pid),
        ]
    };
    for (number, spec) in options
        .phases
        .iter()
        .filter(|spec| spec.is_for(system))
        .enumerate()
    {
        let phase = Phase {
            number: number as u32 + 1,
            seconds: options.seconds,
            warmup: options.warmup,
            ..spec.phase(system)
        };
        client.order(&phase).await?;
        let line = client.line(PATIENCE).await?;
        anyhow::ensure!(line == "start", "the client said {line:?} in place of start");
        let before = clocks(&client);
        let sent: Outcome = client.answer(PATIENCE).await?;
        let mut outcome = sent.clone();
        if let (Kind::Pub, Some(server)) = (phase.kind, server.as_mut()) {
            let order = Collect {
                number: phase.number,
                sent: sent.count * systems::split(name)?.1.fan_out as u64,
            };
            server.order(&order).await?;
            outcome = server.answer::<Outcome>(PATIENCE).await?.after(&sent);
        }
        let after = clocks(&client);
        results.samples.push(Sample {
            system: name.to_owned(),
            phase: spec.name.clone(),
            round,
            outcome,
            cpu: std::array::from_fn(|index| after[index] - before[index]),
            peak_mib: [peak_mib(client.pid()), peak_mib(server_pid)],
        });
    }
    client.end().await;
    if let Some(server) = server {
        server.end().await;
    }
    Ok(())
}

/// The program of a system. Those of the peers are in the folder that this one was built from.
fn program(program: Program) -> anyhow::Result<Command> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let command = match program {
        Program::Own => Command::new(std::env::current_exe()?),
        Program::Peers => Command::new(benches.join("peers/target/release/commlib-bench-peers")),
        Program::Python => {
            let mut command = Command::new(benches.join("python/.venv/bin/python"));
            command.arg(benches.join("python/peer.py"));
            // What goes wrong there is in the outcomes; the tracebacks of its libraries would fill pages.
            command.stderr(Stdio::null());
            command
        }
    };
    Ok(command)
}
