//! Rules of this crate's own source.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source folder can be read") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() && !path.ends_with("tests") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A panic in a macro is an error without a place; users get spanned errors only.
#[test]
fn nothing_panics() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 15, "{found:?}");
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a source file can be read");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for banned in [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "unreachable!(",
                " assert!(",
                "assert_eq!(",
                "todo!(",
                "unimplemented!(",
            ] {
                assert!(
                    !line.contains(banned),
                    "{}:{}: `{banned}` in `{line}`",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}
