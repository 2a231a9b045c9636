//! The reaper: a small shell process that ends what a test process leaves behind.
//!
//! A destructor does not run when a process is killed, when it exits with statics alive, or when a runner
//! gives up on a test. The reaper holds the reading end of a pipe from us, so the kernel tells it of our end
//! in every case; then it kills the process groups that we put under its watch and removes our folders. It
//! checks start times, so a reused process id is never hit, and it is in a process group of its own, so that
//! Ctrl-C and the timeouts of a runner do not take it first.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use parking_lot::Mutex;

/// A connection to a reaper process.
#[derive(Debug)]
pub(crate) struct Reaper {
    pipe: Mutex<ChildStdin>,
    /// Never waited for: it ends after us.
    _process: Child,
}

/// The reaper of this process: it strikes when this process ends.
pub(crate) fn own() -> &'static Reaper {
    static OWN: OnceLock<Reaper> = OnceLock::new();
    OWN.get_or_init(|| Reaper::start(None))
}

impl Reaper {
    /// Starts a reaper that strikes after both this process (or this value) and `owner` are gone.
    pub(crate) fn start(owner: Option<u32>) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", include_str!("reaper.sh"), "commlib-reaper"])
            .arg(owner.map(|pid| pid.to_string()).unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("could not start `sh` for the reaper: {error}"));
        let pipe = child
            .stdin
            .take()
            .unwrap_or_else(|| panic!("the reaper has no pipe"));
        Self {
            pipe: Mutex::new(pipe),
            _process: child,
        }
    }

    /// Puts the process group that `pid` leads under watch.
    pub(crate) fn watch(&self, pid: u32) {
        self.send(&format!("+ {pid}\n"));
    }

    /// Ends the watch: the process is gone.
    pub(crate) fn forget(&self, pid: u32) {
        self.send(&format!("- {pid}\n"));
    }

    /// Removes the folder at the end.
    pub(crate) fn remove_at_end(&self, folder: &Path) {
        self.send(&format!("d {}\n", folder.display()));
    }

    fn send(&self, line: &str) {
        let mut pipe = self.pipe.lock();
        pipe.write_all(line.as_bytes())
            .unwrap_or_else(|error| panic!("the reaper is gone: {error}"));
    }
}
