//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use commlib_tests::soak::{
    BrokerKind, DeadlineRun, DrainRun, Fault, LeakRun, LedgerRun, RecoveryRun, Run, Settings,
};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
usage: commlib-soak ledger [--transport redis|amqp] [--seed N] [--seconds S] [--clients N] [--rate PER_SECOND]
                           [--messages PER_SECOND] [--kept PER_SECOND]
                           [--faults kill,freeze,reset,blackhole,server]
       commlib-soak recovery [--transport redis|amqp] [--restarts N] [--clients N]
       commlib-soak leaks [--transport redis|amqp] [--calls N] [--killed N]
       commlib-soak drain [--transport redis|amqp]
       commlib-soak deadlines [--transport redis|amqp] [--seed N] [--calls N]
       commlib-soak all [--transport redis|amqp] [--seed N]
       commlib-soak --help

Starts a broker of its own behind a fault proxy, servers in processes of their own, and clients; breaks what it can;
then holds what every caller was told against what every server did. Without --transport: on both
brokers. --out FILE adds the reports to a file. Exit code 1 if a promise was broken, 2 for wrong usage.";

/// What is to be done.
pub(crate) enum Command {
    Help,
    /// Be a server of a run.
    Serve {
        settings: Settings,
        runs: PathBuf,
    },
    /// Be a client of a run.
    Call {
        url: String,
        first: u64,
        calls: u64,
    },
    Runs {
        runs: Vec<Run>,
        out: Option<PathBuf>,
    },
}

/// Options by name; each is taken once.
#[derive(Clone)]
struct Options(Vec<(String, String)>);

impl Options {
    fn read(args: &[String]) -> Result<Self, String> {
        let mut options = Vec::new();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let Some(name) = name.strip_prefix("--") else {
                return Err(format!("unexpected argument {name:?}"));
            };
            // The only one without a value.
            let value = match name {
                "durable" => "true",
                _ => args.next().ok_or_else(|| format!("--{name} needs a value"))?,
            };
            options.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(options))
    }

    fn take<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(place) = self.0.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(place);
        let parsed = value
            .parse()
            .map_err(|error: T::Err| format!("--{name}: {}", error.to_string()));
        parsed.map(Some)
    }

    fn need<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.ok_or_else(|| format!("--{name} is missing"))
    }

    fn seconds(&mut self, name: &str) -> Result<Option<Duration>, String> {
        let Some(seconds) = self.take::<f64>(name)? else {
            return Ok(None);
        };
        let time = Duration::try_from_secs_f64(seconds);
        time.map(Some).map_err(|error| format!("--{name}: {error}"))
    }

    fn brokers(&mut self) -> Result<Vec<BrokerKind>, String> {
        let one = self.take("transport")?;
        Ok(one.map_or(BrokerKind::ALL.to_vec(), |kind| vec![kind]))
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unknown option --{name}, or given twice")),
        }
    }
}

/// Reads the arguments.
pub(crate) fn parse(args: &[String]) -> Result<Command, String> {
    let Some((command, rest)) = args.split_first() else {
        return Err("nothing to do".to_owned());
    };
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Command::Help);
    }
    let mut options = Options::read(rest)?;
    let runs = match command.as_str() {
        "serve" => {
            let serve = serve(&mut options)?;
            options.end()?;
            return Ok(serve);
        }
        "client" => {
            let call = call(&mut options)?;
            options.end()?;
            return Ok(call);
        }
        "ledger" => ledger(&mut options)?,
        "recovery" => recovery(&mut options)?,
        "leaks" => leaks(&mut options)?,
        "drain" => drain(&mut options)?,
        "deadlines" => deadlines(&mut options)?,
        "all" => {
            let mut runs = ledger(&mut options.clone())?;
            runs.extend(drain(&mut options.clone())?);
            runs.extend(deadlines(&mut options.clone())?);
            runs.extend(leaks(&mut options.clone())?);
            runs.extend(recovery(&mut options.clone())?);
            for known in ["transport", "seed"] {
                options.take::<String>(known)?;
            }
            runs
        }
        other => return Err(format!("unknown command {other:?}")),
    };
    let out = options.take("out")?;
    options.end()?;
    Ok(Command::Runs { runs, out })
}

fn call(options: &mut Options) -> Result<Command, String> {
    Ok(Command::Call {
        url: options.need("url")?,
        first: options.need("first")?,
        calls: options.need("calls")?,
    })
}

fn drain(options: &mut Options) -> Result<Vec<Run>, String> {
    let brokers = options.brokers()?.into_iter();
    Ok(brokers.map(|broker| Run::Drain(DrainRun { broker })).collect())
}

fn leaks(options: &mut Options) -> Result<Vec<Run>, String> {
    let (brokers, calls) = (options.brokers()?, options.take("calls")?);
    let killed = options.take("killed")?;
    let run = |broker| {
        let mut run = LeakRun::full(broker);
        run.calls = calls.unwrap_or(run.calls);
        run.killed = killed.unwrap_or(run.killed);
        Run::Leaks(run)
    };
    Ok(brokers.into_iter().map(run).collect())
}

fn serve(options: &mut Options) -> Result<Command, String> {
    let mut settings = Settings::new(&options.need::<String>("url")?);
    settings.durable = options.take("durable")?.unwrap_or(false);
    if let Some(ms) = options.take("drain-ms")? {
        settings.drain = Duration::from_millis(ms);
    }
    if let Some(concurrency) = options.take("concurrency")? {
        settings.concurrency = concurrency;
    }
    let runs = options.need("runs")?;
    Ok(Command::Serve { settings, runs })
}

fn seed(options: &mut Options) -> Result<u64, String> {
    Ok(options.take("seed")?.unwrap_or_else(rand::random))
}

fn ledger(options: &mut Options) -> Result<Vec<Run>, String> {
    let (brokers, seed) = (options.brokers()?, seed(options)?);
    let time = options.seconds("seconds")?;
    let (clients, rate, messages, kept) = (
        options.take("clients")?,
        options.take("rate")?,
        options.take("messages")?,
        options.take("kept")?,
    );
    let faults = options.take::<String>("faults")?;
    let faults: Option<Result<Vec<Fault>, String>> = faults.map(|list| {
        list.split(',')
            .filter(|name| !name.is_empty())
            .map(str::parse)
            .collect()
    });
    let faults = faults.transpose()?;
    let run = |broker| {
        let mut run = LedgerRun::full(broker, seed);
        run.time = time.unwrap_or(run.time);
        run.load.clients = clients.unwrap_or(run.load.clients);
        run.load.rate = rate.unwrap_or(run.load.rate);
        run.load.messages = messages.unwrap_or(run.load.messages);
        run.load.kept = kept.unwrap_or(run.load.kept);
        if let Some(faults) = &faults {
            run.faults.clone_from(faults);
        }
        Run::Ledger(run)
    };
    Ok(brokers.into_iter().map(run).collect())
}

fn recovery(options: &mut Options) -> Result<Vec<Run>, String> {
    let (brokers, restarts, clients) = (
        options.brokers()?,
        options.take("restarts")?,
        options.take("clients")?,
    );
    let run = |broker| {
        let mut run = RecoveryRun::full(broker);
        run.restarts = restarts.unwrap_or(run.restarts);
        run.clients = clients.unwrap_or(run.clients);
        Run::Recovery(run)
    };
    Ok(brokers.into_iter().map(run).collect())
}

fn deadlines(options: &mut Options) -> Result<Vec<Run>, String> {
    let (brokers, seed, calls) = (options.brokers()?, seed(options)?, options.take("calls")?);
    let run = |broker| {
        let mut run = DeadlineRun::full(broker, seed);
        run.calls = calls.unwrap_or(run.calls);
        Run::Deadlines(run)
    };
    Ok(brokers.into_iter().map(run).collect())
}
