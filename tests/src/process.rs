//! Processes that never outlive the test.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::reaper::Reaper;

/// A child process that leads a process group of its own. The group is killed on drop, and by the reaper if
/// this process is killed.
///
/// A signal is sent only while the process id is known to be ours.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    pid: u32,
    child: Mutex<Child>,
    reaper: &'a Reaper,
    released: bool,
}

impl<'a> Process<'a> {
    /// Starts `command` with no input; its output is appended to the file `log`.
    pub(crate) fn start_logged(command: &Command, log: &Path, reaper: &'a Reaper) -> Self {
        let open = || -> File {
            let file = OpenOptions::new().create(true).append(true).open(log);
            file.unwrap_or_else(|error| panic!("could not open the log {}: {error}", log.display()))
        };
        Self::start(command, open().into(), open().into(), reaper)
    }

    /// Starts `command` with no input; its output comes through the two pipes.
    pub(crate) fn start_piped(command: &Command, reaper: &'a Reaper) -> (Self, ChildStdout, ChildStderr) {
        let process = Self::start(command, Stdio::piped(), Stdio::piped(), reaper);
        let mut child = process.child.lock();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            panic!("no output pipes from {command:?}");
        };
        drop(child);
        (process, stdout, stderr)
    }

    fn start(command: &Command, stdout: Stdio, stderr: Stdio, reaper: &'a Reaper) -> Self {
        // The program runs only after the reaper has its process id. If we are killed before that, the
        // shell reads the end of the pipe and ends.
        let mut gate = Command::new("sh");
        gate.args(["-c", "read -r go && exec \"$@\" </dev/null", "gate"]);
        gate.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => gate.env(key, value),
                None => gate.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            gate.current_dir(folder);
        }
        gate.stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        let mut child = gate
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        let pid = child.id();
        reaper.watch(pid);
        let stdin = child.stdin.take();
        let process = Self {
            pid,
            child: Mutex::new(child),
            reaper,
            released: false,
        };
        let opened = stdin.map(|mut stdin| stdin.write_all(b"go\n"));
        assert!(
            matches!(opened, Some(Ok(()))),
            "could not start {command:?}: the shell before it ended"
        );
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn group(&self) -> Pid {
        // Process ids fit: the kernel's largest is 2^22.
        Pid::from_raw(i32::try_from(self.pid).unwrap_or_else(|_| panic!("process id {}", self.pid)))
    }

    /// Its exit status, once it has ended.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock();
        child
            .try_wait()
            .unwrap_or_else(|error| panic!("could not wait for process {}: {error}", self.pid))
    }

    /// Sends a signal to the process: stop and continue to its whole group, others to it alone, as a
    /// service manager does. Returns false when the process has already ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let mut child = self.child.lock();
        // While the lock is held and the child is not waited for, its process id can't be reused.
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        let sent = match signal {
            Signal::SIGSTOP | Signal::SIGCONT | Signal::SIGKILL => killpg(self.group(), signal),
            _ => kill(self.group(), signal),
        };
        sent.unwrap_or_else(|error| panic!("could not send {signal} to process {}: {error}", self.pid));
        true
    }

    /// Blocks until the process has ended, at most for `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let status = self.status();
            if status.is_some() || Instant::now() >= end {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL to the whole group, and waits for the process.
    pub(crate) fn kill(&self) {
        if self.signal(Signal::SIGKILL) {
            let _ = self.child.lock().wait();
        }
    }

    /// Leaves the process to its reaper.
    pub(crate) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        if !self.released {
            self.kill();
            self.reaper.forget(self.pid);
        }
    }
}
