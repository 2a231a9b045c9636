//! What a run found.

use std::fmt;

/// Figures, and what went against the promises.
#[derive(Debug, Clone, Default)]
pub struct Report {
    title: String,
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// A report without anything in it.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a figure, or several lines of them.
    pub fn line(&mut self, text: impl fmt::Display) {
        let text = text.to_string();
        self.lines.extend(text.lines().map(str::to_owned));
    }

    /// Adds a broken promise.
    pub fn fail(&mut self, text: impl fmt::Display) {
        self.failures.push(text.to_string());
    }

    /// Adds a broken promise unless the condition holds.
    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.fail(otherwise());
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// # Panics
    /// When a promise was broken, with the report.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.is_good(), "{self}");
        println!("{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_good() { "passed" } else { "FAILED" };
        writeln!(f, "## {}: {word}\n", self.title)?;
        for line in &self.lines {
            writeln!(f, "    {line}")?;
        }
        for failure in &self.failures {
            writeln!(f, "    FAILED: {failure}")?;
        }
        Ok(())
    }
}
