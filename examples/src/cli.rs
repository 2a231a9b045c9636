//! The examples as programs: how they connect, and how they end.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the method failed with its own, typed error |
//! | 2 | wrong arguments, a wrong URL, or two processes asked to meet on `memory://` |
//! | 3 | no reply in time |
//! | 4 | nobody serves the method |
//! | 5 | any other failure |
//! | 6 | the broker is not reachable |

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use commlib::{BrokerUrl, ConnectError, Node, NodeError, URL_VARIABLE};

/// Why a program ends before its work is done: an exit code, and what it prints on standard error.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The method's own error. Its text is printed as it is, for programs to read.
    pub const TYPED: u8 = 1;
    /// Wrong use.
    pub const USAGE: u8 = 2;
    /// No reply in time.
    pub const TIMEOUT: u8 = 3;
    /// Nobody serves the method.
    pub const NO_RESPONDERS: u8 = 4;
    /// Any other failure.
    pub const OTHER: u8 = 5;
    /// The broker is not reachable.
    pub const UNREACHABLE: u8 = 6;

    /// A failure with this exit code.
    #[must_use]
    pub fn new(code: u8, text: impl fmt::Display) -> Self {
        Self {
            code,
            text: text.to_string(),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            ConnectError::Url(_)
            | ConnectError::Settings(_)
            | ConnectError::NotBuilt { .. }
            | ConnectError::Unsupported { .. } => Self::USAGE,
            _ => Self::UNREACHABLE,
        };
        Self::new(code, error)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let code = match error {
            NodeError::Address { .. } => Self::USAGE,
            _ => Self::OTHER,
        };
        Self::new(code, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Self::OTHER, error)
    }
}

/// Ends `main`: a failure is one line on standard error and the exit code.
#[must_use]
pub fn end(result: Result<(), Failure>) -> ExitCode {
    let Err(Failure { code, text }) = result else {
        return ExitCode::SUCCESS;
    };
    // Text from a peer may hold line breaks and worse.
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if code == Failure::TYPED {
        eprintln!("{line}");
    } else {
        eprintln!("error: {line}");
    }
    ExitCode::from(code)
}

/// Connects to the broker of `COMMLIB_URL` for a program whose peer is another process.
///
/// # Errors
/// When the variable names no broker, or the broker is not reachable.
pub async fn connect_to_broker() -> Result<Node, Failure> {
    let url = std::env::var(URL_VARIABLE).unwrap_or_else(|_| "memory://".to_owned());
    if BrokerUrl::parse(&url)?.scheme() == "memory" {
        let text = format!(
            "this example talks to another process, which `memory://` can't; set {URL_VARIABLE} to a broker, such as redis://127.0.0.1 or amqp://127.0.0.1"
        );
        return Err(Failure::new(Failure::USAGE, text));
    }
    Ok(Node::connect(&url).await?)
}

/// Prints a line on standard output. Unlike `println!`, a closed output is an error and no panic.
///
/// # Errors
/// When it can't be written.
pub fn print(line: impl fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

/// Reads a length of time such as `2s`, `500ms` or `1.5m`.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("write a number and a unit: `500ms`, `2s` or `1m`".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "2", "s", "-1s", "2 s", "2h2", "infs", "nans"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
