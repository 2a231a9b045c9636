//! Temporary folders that are removed also when the test process is killed.

use std::path::{Path, PathBuf};

use crate::reaper;

/// A private folder under the system's temporary folder, removed on drop, and by the reaper if the process
/// is killed. With `COMMLIB_TEST_KEEP` set it stays, for a look at it.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes a folder whose name starts with `commlib-` and `name`.
    ///
    /// # Panics
    /// When the folder can't be made.
    pub fn new(name: &str) -> Self {
        let path = tempfile::Builder::new()
            .prefix(&format!("commlib-{name}-"))
            .tempdir()
            .unwrap_or_else(|error| panic!("could not make a temporary folder: {error}"))
            .keep();
        if !kept() {
            reaper::own().remove_at_end(&path);
        }
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if kept() {
            eprintln!("kept {}", self.path.display());
        } else {
            // What is left over here goes when the process ends.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Whether temporary folders are to stay.
pub(crate) fn kept() -> bool {
    std::env::var_os("COMMLIB_TEST_KEEP").is_some_and(|value| !value.is_empty())
}
