//! The processes of a system: started, spoken to by lines, looked at in `/proc`, and ended.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process may take so long to be ready.
const START: Duration = Duration::from_secs(20);
/// It ends by itself when its input does; after so long it is killed.
const END: Duration = Duration::from_secs(2);

/// A process of a system. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a process and waits until it says `ready`.
    pub(crate) async fn start(name: String, mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no output")?;
        let mut process = Self {
            name,
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        let line = process.line(START).await?;
        if line != "ready" {
            bail!("{} said {line:?} in place of ready", process.name);
        }
        Ok(process)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends an order.
    pub(crate) async fn order<T: Serialize>(&mut self, order: &T) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("its input is closed")?;
        input.write_all(&line).await?;
        Ok(input.flush().await?)
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self, limit: Duration) -> anyhow::Result<String> {
        let line = tokio::time::timeout(limit, self.output.next_line())
            .await
            .with_context(|| format!("{} said nothing for {limit:?}", self.name))??;
        line.with_context(|| format!("{} has ended", self.name))
    }

    /// The next line that it prints, as JSON.
    pub(crate) async fn answer<T: DeserializeOwned>(&mut self, limit: Duration) -> anyhow::Result<T> {
        let line = self.line(limit).await?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))
    }

    /// Closes its input and waits for its end.
    pub(crate) async fn end(mut self) {
        drop(self.input.take());
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            // Reported by nobody: the figures are in, and the process goes when this is dropped.
            let _ = self.child.kill().await;
        }
    }
}

/// CPU time in seconds, user and system, that a process has used with all its threads.
pub(crate) fn cpu_seconds(pid: Option<u32>) -> f64 {
    let Some(pid) = pid else { return 0.0 };
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0.0;
    };
    // The name in parentheses may hold anything; fields 14 and 15 are counted from its end. A tick is 10 ms on Linux.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    (ticks(11) + ticks(12)) as f64 / 100.0
}

/// Peak resident memory of a process in MiB.
pub(crate) fn peak_mib(pid: Option<u32>) -> f64 {
    let Some(pid) = pid else { return 0.0 };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1024.0)
}
