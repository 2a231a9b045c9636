//! The bench: all systems in every round, one after the other, each with its own processes.

mod brokers;
mod phases;
mod sample;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use commlib_bench_protocol::{Collect, Kind, Outcome, Phase};
use tokio::process::Command;

use self::brokers::Brokers;
pub(crate) use self::phases::PhaseSpec;
pub(crate) use self::sample::{Results, Sample};
use crate::process::{Process, cpu_seconds, peak_mib};
use crate::systems::{self, System};
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
            if let Err(error) = one_system(&options, &brokers, round, name, system, &mut results).await {
                let failure = format!("{name}, round {}: {error:#}", round + 1);
                eprintln!("{failure}");
                results.failures.push(failure);
            }
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
    let command = |role: &str| -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([role, name, "--broker"])
            .arg(brokers.url(system.broker));
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
                sent: sent.count,
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
