//! Long runs under real faults: `scripts/soak` builds and starts this program.

mod options;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use commlib_tests::soak;

use self::options::{Command, HELP};

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let command = match options::parse(&args) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("commlib-soak: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let (runs, out) = match command {
        Command::Help => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Command::Serve { settings, runs } => return ended(soak::serve(settings, &runs).await),
        Command::Call { url, first, calls } => return ended(soak::client::call(&url, first, calls).await),
        Command::Runs { runs, out } => (runs, out),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("commlib-soak: who am I: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut good = true;
    for run in runs {
        let report = run.run(program.clone()).await;
        good &= report.is_good();
        println!("{report}");
        if let Some(out) = &out
            && let Err(error) = append(out, &report.to_string())
        {
            eprintln!("commlib-soak: could not write to {}: {error}", out.display());
            return ExitCode::FAILURE;
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn append(file: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{text}")
}
