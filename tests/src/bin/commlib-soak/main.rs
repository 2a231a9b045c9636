//! Long runs under real faults: `scripts/soak` builds and starts this program.

mod options;

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
    let runs = match command {
        Command::Help => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Command::Serve { settings, runs } => {
            return match soak::serve(settings, &runs).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            };
        }
        Command::Runs(runs) => runs,
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
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
