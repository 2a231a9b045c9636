//! The ledger: every call, how it ended and how often its handler ran, and what that says about the promises.
//!
//! The idea is that of Jepsen's queue checkers: give each unit of work a number, write down what was said about it
//! and what really happened, and compare the two afterwards. Handler runs must be reported by a way of their own
//! (a file of each server process), never by the broker that is being tested.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use commlib::Execution;

/// How late an outcome may be: what the project promises.
pub const GRACE: Duration = Duration::from_millis(250);
/// How many numbers of each finding are named in a report.
const NAMED: usize = 8;

/// What the caller of a call, or the publisher of a message, was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The reply to a call: which call the server says it was, and what it was told to say.
    Reply {
        /// The number that came back.
        of: u64,
        /// The value that came back.
        value: u64,
    },
    /// The broker has the message; there is no reply.
    Accepted,
    /// An error.
    Error {
        /// What it says of the work.
        execution: Execution,
        /// Its code, or another word for its kind.
        code: String,
    },
}

/// Which promise a history is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// A handler runs at most once for each call.
    AtMostOnce,
    /// A handler runs at least once for each call that succeeded and each message that was accepted.
    AtLeastOnce,
}

#[derive(Debug, Clone)]
struct Entry {
    value: u64,
    begun: Duration,
    deadline: Duration,
    ended: Option<(Duration, Outcome)>,
    runs: u32,
}

/// Everything that happened in a run. Times are since its beginning.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: BTreeMap<u64, Entry>,
    strangers: BTreeMap<u64, u32>,
    /// The longest time for which this process, not what is tested, was late.
    lag: Duration,
    /// At some times, for how long the threads that write the outcomes down had waited for a processor by then.
    waited: BTreeMap<Duration, Duration>,
}

/// What is wrong with a history, or only remarkable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// Said to be done or accepted, and no handler ran.
    Lost,
    /// A handler ran more than once. Allowed at least once.
    Duplicated,
    /// A handler ran for a number that nobody sent.
    Unexpected,
    /// The outcome was unknown, and a handler ran: what the error said, so always allowed.
    Recovered,
    /// No outcome by the deadline and [`GRACE`].
    Hung,
    /// The reply was that of another call, or not what the server was told to say.
    Misdelivered,
    /// The error said that the work did not run, and it ran; or that it ran and failed, and it never did.
    Lied,
}

impl Finding {
    const ALL: [Self; 7] = [
        Self::Lost,
        Self::Duplicated,
        Self::Unexpected,
        Self::Recovered,
        Self::Hung,
        Self::Misdelivered,
        Self::Lied,
    ];

    /// Whether it breaks a promise.
    #[must_use]
    pub fn breaks(self, promise: Promise) -> bool {
        match self {
            Self::Recovered => false,
            Self::Duplicated => promise == Promise::AtMostOnce,
            Self::Lost | Self::Unexpected | Self::Hung | Self::Misdelivered | Self::Lied => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Unexpected => "unexpected",
            Self::Recovered => "recovered",
            Self::Hung => "hung",
            Self::Misdelivered => "misdelivered",
            Self::Lied => "lied",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Ledger {
    /// A call with a number of its own is made now, and must have an outcome by `deadline`. The server is told to
    /// answer with `value`.
    ///
    /// # Panics
    /// When the number is taken: a ledger with two calls of one number proves nothing.
    pub fn invoke(&mut self, id: u64, value: u64, now: Duration, deadline: Duration) {
        let entry = Entry {
            value,
            begun: now,
            deadline,
            ended: None,
            runs: 0,
        };
        assert!(
            self.entries.insert(id, entry).is_none(),
            "two calls of number {id}"
        );
    }

    /// A call ended.
    ///
    /// # Panics
    /// When it was not made, or has ended before.
    pub fn end(&mut self, id: u64, now: Duration, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(&id) else {
            panic!("call {id} ended without having begun")
        };
        assert!(entry.ended.is_none(), "call {id} ended twice");
        entry.ended = Some((now, outcome));
    }

    /// A handler began to run for this number.
    pub fn ran(&mut self, id: u64) {
        match self.entries.get_mut(&id) {
            Some(entry) => entry.runs += 1,
            None => *self.strangers.entry(id).or_default() += 1,
        }
    }

    /// A timer of this process was late by so much: outcomes may be later by it, since whoever writes them down was
    /// not given the processor.
    pub fn lagged(&mut self, lag: Duration) {
        self.lag = self.lag.max(lag);
    }

    /// By `now` the threads that write the outcomes down had waited so long for a processor, together. What comes late
    /// because its thread waited for one is the machine's fault. Waits of other threads are not: an outcome that comes
    /// late because such a thread holds it up is our fault.
    pub fn waited(&mut self, now: Duration, waited: Duration) {
        self.waited.insert(now, waited);
    }

    /// For how long these threads waited for a processor between two times.
    fn waits(&self, from: Duration, to: Duration) -> Duration {
        let before = self.waited.range(..=from).next_back();
        let after = self
            .waited
            .range(to..)
            .next()
            .or_else(|| self.waited.last_key_value());
        let of = |at: Option<(&Duration, &Duration)>| at.map_or(Duration::ZERO, |(_, waited)| *waited);
        of(after).saturating_sub(of(before))
    }

    /// How many calls were made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The numbers that were said to be done or accepted and that no handler has run for.
    #[must_use]
    pub fn missing(&self) -> Vec<u64> {
        let missing = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_done() && entry.runs == 0);
        missing.map(|(id, _)| *id).collect()
    }

    /// When each call began, and when it succeeded if it did.
    pub fn successes(&self) -> impl Iterator<Item = (Duration, Option<Duration>)> {
        self.entries.values().map(|entry| {
            let ended = entry.ended.as_ref().filter(|_| entry.is_done());
            (entry.begun, ended.map(|(at, _)| *at))
        })
    }

    /// The share of the calls begun in a span of time that succeeded within `prompt`; 0 if there were none.
    #[must_use]
    pub fn share(&self, from: Duration, to: Duration, prompt: Duration) -> f64 {
        let begun = self.successes().filter(|(at, _)| *at >= from && *at < to);
        let (mut calls, mut good) = (0_u32, 0_u32);
        for (at, ended) in begun {
            calls += 1;
            good += u32::from(ended.is_some_and(|ended| ended <= at + prompt));
        }
        f64::from(good) / f64::from(calls.max(1))
    }

    /// When, after `from`, calls succeed again as they used to: nine of ten that begin in half a second, each within
    /// half a second. `None` if that does not come before `until`.
    #[must_use]
    pub fn recovered(&self, from: Duration, until: Duration) -> Option<Duration> {
        const WINDOW: Duration = Duration::from_millis(500);
        let last = self.successes().map(|(at, _)| at).max().unwrap_or_default();
        (0..)
            .map(|step| from + Duration::from_millis(50) * step)
            .take_while(|at| *at + WINDOW <= last.min(until))
            .find(|at| self.share(*at, *at + WINDOW, WINDOW) >= 0.9)
    }

    /// Holds what happened against a promise.
    #[must_use]
    pub fn check(&self, promise: Promise) -> Verdict {
        let mut verdict = Verdict {
            promise,
            calls: self.entries.len(),
            succeeded: 0,
            errors: BTreeMap::new(),
            runs: self.entries.values().map(|entry| u64::from(entry.runs)).sum(),
            found: BTreeMap::new(),
            latest: None,
            excused: 0,
            lag: self.lag,
        };
        for (&id, entry) in &self.entries {
            let ended = entry.ended.as_ref().map_or(entry.deadline, |(at, _)| *at);
            verdict.read(id, entry, self.lag + self.waits(entry.deadline, ended));
        }
        for &id in self.strangers.keys() {
            verdict.find(Finding::Unexpected, id, "nobody sent this".to_owned());
        }
        verdict
    }
}

impl Entry {
    fn is_done(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Reply { .. } | Outcome::Accepted)))
    }
}

/// What a [`Ledger`] says about a promise. Its `Display` is a report.
#[derive(Debug, Clone)]
pub struct Verdict {
    promise: Promise,
    calls: usize,
    succeeded: usize,
    errors: BTreeMap<String, usize>,
    runs: u64,
    found: BTreeMap<Finding, Vec<(u64, String)>>,
    /// By how much an outcome came after its deadline, at most, and which one that was.
    latest: Option<(Duration, String)>,
    /// How many came later than promised for which the machine is to blame.
    excused: usize,
    lag: Duration,
}

impl Verdict {
    fn find(&mut self, finding: Finding, id: u64, why: String) {
        self.found.entry(finding).or_default().push((id, why));
    }

    /// `excused` is by how much it was late for which nobody is to blame.
    fn read(&mut self, id: u64, entry: &Entry, excused: Duration) {
        let runs = entry.runs;
        if runs > 1 {
            self.find(Finding::Duplicated, id, format!("{runs} runs"));
        }
        let Some((ended, outcome)) = &entry.ended else {
            return self.find(Finding::Hung, id, format!("no outcome, {runs} runs"));
        };
        let late = ended.saturating_sub(entry.deadline);
        if !late.is_zero() && self.latest.as_ref().is_none_or(|(latest, _)| late > *latest) {
            let begun = entry.begun;
            self.latest = Some((
                late,
                format!("{id}, begun at {begun:.1?}, {outcome:?}, {runs} runs"),
            ));
        }
        if late > GRACE + excused {
            let why = format!("{outcome:?} {late:?} after the deadline, {runs} runs");
            self.find(Finding::Hung, id, why);
        } else if late > GRACE {
            self.excused += 1;
        }
        match outcome {
            Outcome::Reply { of, value } => {
                self.succeeded += 1;
                if *of != id || *value != entry.value {
                    let why = format!("got {value} of call {of} for {}", entry.value);
                    self.find(Finding::Misdelivered, id, why);
                }
                if runs == 0 {
                    self.find(Finding::Lost, id, "answered, 0 runs".to_owned());
                }
            }
            Outcome::Accepted => {
                self.succeeded += 1;
                if runs == 0 {
                    self.find(Finding::Lost, id, format!("accepted at {ended:?}, 0 runs"));
                }
            }
            Outcome::Error { execution, code } => {
                *self.errors.entry(format!("{code}, {execution}")).or_default() += 1;
                let why = || format!("{code} ({execution}), {runs} runs, began at {:?}", entry.begun);
                match (execution, runs) {
                    (Execution::DidNotRun, 1..) | (Execution::Failed, 0) => {
                        self.find(Finding::Lied, id, why());
                    }
                    (Execution::MayHaveRun, 1..) => self.find(Finding::Recovered, id, why()),
                    _ => {}
                }
            }
        }
    }

    /// How many there are of a finding.
    #[must_use]
    pub fn count(&self, finding: Finding) -> usize {
        self.found.get(&finding).map_or(0, Vec::len)
    }

    /// How many calls succeeded.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.succeeded
    }

    /// Whether the promise was kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.found.keys().all(|finding| !finding.breaks(self.promise))
    }

    /// # Panics
    /// When the promise was not kept, with the report.
    #[track_caller]
    pub fn assert_kept(&self) {
        assert!(self.is_kept(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let promise = match self.promise {
            Promise::AtMostOnce => "at most once",
            Promise::AtLeastOnce => "at least once",
        };
        let word = if self.is_kept() { "kept" } else { "BROKEN" };
        write!(
            f,
            "{promise}, {word}: {} sent, {} succeeded, ",
            self.calls, self.succeeded
        )?;
        writeln!(f, "{} handler runs", self.runs)?;
        let counts = Finding::ALL.map(|finding| format!("{} {finding}", self.count(finding)));
        writeln!(f, "  {}", counts.join(", "))?;
        for (error, count) in &self.errors {
            writeln!(f, "  {count} × {error}")?;
        }
        match &self.latest {
            Some((late, which)) => write!(f, "  latest outcome {late:.0?} after its deadline ({which}); ")?,
            None => write!(f, "  no outcome after its deadline; ")?,
        }
        let (excused, lag) = (self.excused, self.lag);
        writeln!(
            f,
            "{excused} late by the machine's fault, whose timers were late by {lag:.0?} at most"
        )?;
        for (finding, examples) in &self.found {
            if !finding.breaks(self.promise) {
                continue;
            }
            for (id, why) in examples.iter().take(NAMED) {
                writeln!(f, "  {finding}: {id}: {why}")?;
            }
        }
        Ok(())
    }
}
