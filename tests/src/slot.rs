//! The process of a broker that a test may stop and start again.

use std::time::Duration;

use parking_lot::Mutex;

use crate::Signal;
use crate::process::Process;

/// How long a broker may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// A broker's process while it runs. It is killed on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    name: &'static str,
    process: Mutex<Option<Process<'static>>>,
}

impl Slot {
    pub(crate) fn new(name: &'static str, process: Process<'static>) -> Self {
        Self {
            name,
            process: Mutex::new(Some(process)),
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Process::pid)
    }

    /// Puts another process in, after the old one has ended.
    pub(crate) fn replace(&self, process: Process<'static>) {
        *self.process.lock() = Some(process);
    }

    /// SIGTERM, also to a frozen process, and waits for its end.
    pub(crate) fn stop(&self) {
        let Some(process) = self.process.lock().take() else {
            return;
        };
        process.signal(Signal::SIGTERM);
        process.signal(Signal::SIGCONT);
        assert!(
            process.wait(STOP_LIMIT).is_some(),
            "{} did not stop within {STOP_LIMIT:?}",
            self.name
        );
    }

    /// SIGKILL, and waits for its end.
    pub(crate) fn kill(&self) {
        drop(self.process.lock().take());
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process does not run: a fault that does not happen would prove nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        let sent = self
            .process
            .lock()
            .as_ref()
            .is_some_and(|process| process.signal(signal));
        assert!(sent, "{signal} can't be sent: {} does not run", self.name);
    }
}
