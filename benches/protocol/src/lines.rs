//! Lines in and out.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// The orders on standard input.
#[derive(Debug)]
pub struct Lines {
    lines: mpsc::UnboundedReceiver<String>,
}

impl Lines {
    /// Reads standard input from now on, on a thread that sleeps between lines.
    #[must_use]
    pub fn stdin() -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in io::stdin().lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { lines }
    }

    /// The next order; `None` at the end of the input.
    ///
    /// # Errors
    /// When the line is no such order.
    pub async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        match self.lines.recv().await {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }

    /// Returns at the end of the input, which is how a process is told to end.
    pub async fn end(&mut self) {
        while self.lines.recv().await.is_some() {}
    }
}

/// Prints a line at once.
///
/// # Errors
/// When nobody reads it.
pub fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// When nobody reads it, or the value has no JSON.
pub fn say_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(say(&serde_json::to_string(value)?)?)
}
