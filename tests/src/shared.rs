//! One broker for all tests of a run, also when each test is a process of its own.
//!
//! The first test that wants the broker starts it; the others find it by a file. It lives as long as the
//! *runner*: the `cargo` or `cargo-nextest` that is the parent of the test process, or else (a test binary
//! started by hand, or under a debugger) the test process itself. A reaper waits for the runner's end.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::reaper::Reaper;

/// Finds the shared broker of this run, or starts it.
///
/// `start` gets a new folder and the reaper that shall watch the processes, and returns what other processes
/// need to know. `join` gets that text and the folder, and checks that the broker still answers.
pub(crate) fn lease<T>(
    kind: &str,
    start: impl FnOnce(&Path, &Reaper) -> String,
    join: impl FnOnce(&Path, &str) -> T,
) -> T {
    let runner = runner();
    let folder = folder(kind, runner);
    let lock = folder.join("lock");
    let lock =
        File::create(&lock).unwrap_or_else(|error| panic!("could not make {}: {error}", lock.display()));
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .unwrap_or_else(|(_, error)| panic!("could not lock {}: {error}", folder.display()));
    let state = folder.join("state");
    let known = std::fs::read_to_string(&state).unwrap_or_else(|_| {
        let reaper = Reaper::start(Some(runner));
        if !crate::temp::kept() {
            reaper.remove_at_end(&folder);
        }
        // A start that failed earlier in this run may have left something behind.
        let data = folder.join(crate::unique("data"));
        make(&data);
        let known = format!("{}\n{}", data.display(), start(&data, &reaper));
        // Complete or not there: a process may be killed at any time.
        let new = folder.join("state.new");
        let written = std::fs::write(&new, &known).and_then(|()| std::fs::rename(&new, &state));
        written.unwrap_or_else(|error| panic!("could not write {}: {error}", state.display()));
        known
    });
    let (data, rest) = known.split_once('\n').unwrap_or_default();
    join(Path::new(data), rest)
}

/// The process whose life the shared brokers share.
fn runner() -> u32 {
    let parent = std::os::unix::process::parent_id();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    if name.starts_with("cargo") {
        parent
    } else {
        std::process::id()
    }
}

/// The private folder for the run of `runner`.
fn folder(kind: &str, runner: u32) -> PathBuf {
    let stat = std::fs::read_to_string(format!("/proc/{runner}/stat")).unwrap_or_default();
    // Field 22, counted behind the name, which may itself hold blanks and brackets.
    let started = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let Some(started) = started else {
        panic!("could not read the start time of process {runner}")
    };
    let folder = std::env::temp_dir().join(format!("commlib-{kind}-{runner}-{started}"));
    make(&folder);
    let owner = std::fs::metadata(&folder).map(|meta| meta.uid());
    let ours = matches!(owner, Ok(owner) if owner == nix::unistd::geteuid().as_raw());
    assert!(ours, "the folder {} belongs to somebody else", folder.display());
    folder
}

fn make(folder: &Path) {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.unwrap_or_else(|error| panic!("could not make the folder {}: {error}", folder.display()));
}
