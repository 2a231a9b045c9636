//! The end of a broker's log, for the report of a failing test.

use std::path::{Path, PathBuf};

const LINES: usize = 60;

/// A log file, read from where it ended when this value was made.
#[derive(Debug, Clone)]
pub(crate) struct LogTail {
    what: &'static str,
    file: PathBuf,
    start: usize,
}

impl LogTail {
    /// What is added to `file` from now on.
    pub(crate) fn from_now(what: &'static str, file: &Path) -> Self {
        let start = std::fs::metadata(file).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        Self {
            what,
            file: file.to_owned(),
            start,
        }
    }

    /// The same log from its start.
    pub(crate) fn whole(&self) -> Self {
        Self {
            start: 0,
            ..self.clone()
        }
    }

    /// The last lines, with a heading.
    pub(crate) fn text(&self) -> String {
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.start..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(LINES);
        let mut out = format!(
            "--- log of {} ({skipped} earlier lines left out) ---\n",
            self.what
        );
        for line in &lines[skipped..] {
            out.push_str(line);
            out.push('\n');
        }
        out.push_str("--- end of log ---");
        out
    }

    /// Prints the last lines, if there are any and the test on this thread is failing.
    pub(crate) fn print_if_panicking(&self) {
        let len = std::fs::metadata(&self.file).map_or(0, |meta| meta.len());
        if std::thread::panicking() && len > self.start as u64 {
            eprintln!("{}", self.text());
        }
    }
}
