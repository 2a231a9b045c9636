//! Exported contracts: writing them to a folder, and noticing when the folder no longer says what the code does.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Contract;

/// The environment variable that makes [`assert_exported`] write the files instead of comparing.
const UPDATE_VARIABLE: &str = "COMMLIB_UPDATE_SCHEMAS";

/// One file that differs from its contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Drift {
    /// The contract was never exported.
    Missing(PathBuf),
    /// No contract belongs to the file.
    Stale(PathBuf),
    /// The contract changed since it was exported.
    Changed {
        /// The file.
        path: PathBuf,
        /// The lines that differ: `-` as exported, `+` as the code is.
        difference: String,
    },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Stale(path) => write!(f, "{} belongs to no contract", path.display()),
            Self::Changed { path, difference } => write!(f, "{} differs:\n{difference}", path.display()),
        }
    }
}

fn files(contracts: impl IntoIterator<Item = Contract>) -> BTreeMap<String, String> {
    contracts
        .into_iter()
        .map(|contract| (contract.file_name(), contract.to_json()))
        .collect()
}

/// Writes each contract to a file of the folder, and removes the folder's other contract files.
///
/// # Errors
/// When a file can't be written or removed.
pub fn export(folder: impl AsRef<Path>, contracts: impl IntoIterator<Item = Contract>) -> io::Result<()> {
    let folder = folder.as_ref();
    fs::create_dir_all(folder)?;
    let files = files(contracts);
    for name in exported(folder)? {
        if !files.contains_key(&name) {
            fs::remove_file(folder.join(name))?;
        }
    }
    files
        .iter()
        .try_for_each(|(name, text)| fs::write(folder.join(name), text))
}

/// Compares contracts with the files of the folder.
///
/// # Errors
/// When the folder can't be read.
pub fn check_exported(
    folder: impl AsRef<Path>,
    contracts: impl IntoIterator<Item = Contract>,
) -> io::Result<Vec<Drift>> {
    let folder = folder.as_ref();
    let files = files(contracts);
    let mut drifts = Vec::new();
    for (name, text) in &files {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(old) if old == *text => {}
            Ok(old) => drifts.push(Drift::Changed {
                path,
                difference: difference(&old, text),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => drifts.push(Drift::Missing(path)),
            Err(error) => return Err(error),
        }
    }
    for name in exported(folder)? {
        if !files.contains_key(&name) {
            drifts.push(Drift::Stale(folder.join(name)));
        }
    }
    Ok(drifts)
}

/// Fails a test when the files of the folder are not what the contracts say. With the environment variable
/// `COMMLIB_UPDATE_SCHEMAS` set to anything but `0`, writes the files instead.
///
/// A relative folder counts from the folder of the package under test, where cargo runs tests.
///
/// # Panics
/// When there is a difference, with the difference; when the folder can't be read or written.
#[track_caller]
#[expect(
    clippy::panic,
    reason = "an assertion for tests tells its failure by panicking"
)]
pub fn assert_exported(folder: impl AsRef<Path>, contracts: impl IntoIterator<Item = Contract>) {
    let folder = folder.as_ref();
    if std::env::var_os(UPDATE_VARIABLE).is_some_and(|value| value != "0") {
        if let Err(error) = export(folder, contracts) {
            panic!("cannot write the contracts to {}: {error}", folder.display());
        }
        return;
    }
    match check_exported(folder, contracts) {
        Ok(drifts) if drifts.is_empty() => {}
        Ok(drifts) => {
            let list: Vec<_> = drifts.iter().map(Drift::to_string).collect();
            panic!(
                "the exported contracts are not what the code says:\n{}\nrun the test with {UPDATE_VARIABLE}=1 to write them",
                list.join("\n")
            );
        }
        Err(error) => panic!("cannot read the contracts in {}: {error}", folder.display()),
    }
}

/// The names of the contract files of a folder; none if there is no folder.
fn exported(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(".json")
            && entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The lines between the common beginning and the common end of two texts, with two lines around them.
fn difference(old: &str, new: &str) -> String {
    const AROUND: usize = 2;
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(rest)
        .take_while(|(a, b)| a == b)
        .count();
    let from = head.saturating_sub(AROUND);
    let mut lines = vec![format!("  @ line {}", from + 1)];
    lines.extend(old[from..head].iter().map(|line| format!("  {line}")));
    lines.extend(old[head..old.len() - tail].iter().map(|line| format!("- {line}")));
    lines.extend(new[head..new.len() - tail].iter().map(|line| format!("+ {line}")));
    lines.extend(
        new[new.len() - tail..]
            .iter()
            .take(AROUND)
            .map(|line| format!("  {line}")),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_the_changed_lines_and_their_neighbours() {
        let text = difference("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nX\nY\ne\nf\n");
        assert_eq!(text, "  @ line 2\n  b\n  c\n- d\n+ X\n+ Y\n  e\n  f");
        assert_eq!(difference("a\n", "a\na\n"), "  @ line 1\n  a\n+ a");
    }
}
