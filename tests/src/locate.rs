//! Where the programs are that the kit starts.

use std::path::{Path, PathBuf};

/// The first of `candidates` that exists, else `name` on `PATH` or in the usual system folders.
///
/// # Panics
/// When there is none, with a message that names `package` and the script that installs it.
pub(crate) fn program(name: &str, candidates: &[&str], package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    // A user's PATH on Debian leaves out the folders where daemons are.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    candidates
        .iter()
        .map(PathBuf::from)
        .chain(on_path)
        .chain(system)
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!(
                "`{name}` is not installed, and tests against a real broker are never skipped: \
                 run scripts/test, which installs the package `{package}`"
            )
        })
}
