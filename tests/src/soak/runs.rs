//! How server processes say that a handler runs: a line in a file of their own, written before the handler goes on.
//! What was written survives SIGKILL, and the broker under test has no part in it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Of what kind the work was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// A message of a durable topic.
    Message,
    /// A request to a durable method.
    Kept,
    /// One of these that was delivered for the first time.
    KeptFirst,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Call => 'c',
            Self::Message => 'm',
            Self::Kept => 'k',
            Self::KeptFirst => 'f',
        }
    }
}

/// The file of one server process.
#[derive(Debug)]
pub struct RunLog(Mutex<File>);

impl RunLog {
    /// Makes the file.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(Mutex::new(file.unwrap_or_else(|error| {
            panic!("could not make {}: {error}", path.display())
        })))
    }

    /// Says that a handler runs.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn ran(&self, kind: Kind, id: u64) {
        // One write: a process that is killed leaves no half of a line but at the very end.
        let line = format!("{} {id}\n", kind.letter());
        let written = self.0.lock().write_all(line.as_bytes());
        written.unwrap_or_else(|error| panic!("could not report a handler's run: {error}"));
    }
}

/// The run logs of all servers of a stage.
#[derive(Debug)]
pub struct RunLogs {
    folder: PathBuf,
}

impl RunLogs {
    /// Those in a folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Where the server with this number writes.
    pub fn file(&self, server: u64) -> PathBuf {
        self.folder.join(format!("server-{server}.runs"))
    }

    /// Forgets what has run; the servers that reported it have ended.
    ///
    /// # Panics
    /// When a file can't be removed.
    pub fn clear(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let removed = std::fs::remove_file(entry.path());
            removed.unwrap_or_else(|error| panic!("could not remove {:?}: {error}", entry.path()));
        }
    }

    /// Everything that has run until now.
    ///
    /// # Panics
    /// When a file can't be read, or has a line that is none of ours.
    pub fn read(&self, kind: Kind) -> Vec<u64> {
        let mut ids = Vec::new();
        let entries = std::fs::read_dir(&self.folder);
        let entries = entries.unwrap_or_else(|error| panic!("could not list the runs: {error}"));
        for entry in entries.flatten() {
            let text = std::fs::read_to_string(entry.path());
            let text = text.unwrap_or_else(|error| panic!("could not read {:?}: {error}", entry.path()));
            // A line without its end is still being written, or never will be.
            for line in text
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
            {
                let parsed = line
                    .split_once(' ')
                    .and_then(|(letter, id)| Some((letter, id.parse().ok()?)));
                let Some((letter, id)) = parsed else {
                    panic!("not a run: {line:?} in {:?}", entry.path())
                };
                if letter == kind.letter().to_string() {
                    ids.push(id);
                }
            }
        }
        ids
    }
}
