//! Who may import whom inside the library: the architecture as a test.

use std::fs;
use std::path::{Path, PathBuf};

/// For the files below a path: what of the crate they may name. The first rule that fits a file holds.
const RULES: &[(&str, &[&str])] = &[
    ("address.rs", &[]),
    ("error.rs", &["codec"]),
    ("limits.rs", &[]),
    ("compression.rs", &["error", "limits"]),
    ("codec.rs", &[]),
    ("envelope/", &["codec", "error", "envelope", "limits"]),
    ("message.rs", &[]),
    (
        "transport/memory/",
        &["address", "envelope", "error", "Execution", "limits", "transport"],
    ),
    (
        "transport/redis/",
        &["address", "envelope", "error", "Execution", "limits", "transport"],
    ),
    (
        "transport/amqp/",
        &[
            "address",
            "codec",
            "compression",
            "envelope",
            "error",
            "Execution",
            "limits",
            "transport",
        ],
    ),
    (
        "transport/",
        &["address", "envelope", "error", "limits", "transport"],
    ),
    ("trace.rs", &["envelope", "runtime"]),
    (
        "runtime/",
        &["envelope", "error", "runtime", "trace", "transport"],
    ),
    (
        "middleware.rs",
        &[
            "address",
            "codec",
            "compression",
            "envelope",
            "error",
            "limits",
            "LocalError",
            "transport",
        ],
    ),
    (
        "rpc/",
        &[
            "Execution",
            "LocalError",
            "NoError",
            "Status",
            "StatusCode",
            "address",
            "codec",
            "compression",
            "envelope",
            "error",
            "limits",
            "message",
            "middleware",
            "node",
            "rpc",
            "runtime",
            "trace",
            "transport",
        ],
    ),
    (
        "topic/",
        &[
            "address",
            "codec",
            "compression",
            "envelope",
            "error",
            "limits",
            "message",
            "middleware",
            "node",
            "rpc",
            "runtime",
            "topic",
            "trace",
            "transport",
        ],
    ),
    ("schema/", &["NoError", "rpc", "schema", "topic"]),
];

#[test]
fn imports_go_down_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../commlib/src");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in rust_files(&source) {
        let name = file
            .strip_prefix(&source)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        let Some((_, allowed)) = RULES.iter().find(|(path, _)| name.starts_with(path)) else {
            continue;
        };
        checked += 1;
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            // What only tests use, and what documentation links to, is no layer.
            if line.starts_with("#[cfg(") && line.contains("test") {
                break;
            }
            if line.trim_start().starts_with("//") {
                continue;
            }
            for named in line.split("crate::").skip(1) {
                let named: String = named
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{name}:{}: names `crate::{named}`", number + 1));
                }
            }
        }
        let transports = ["memory", "redis", "amqp"];
        if let Some(own) = transports
            .iter()
            .find(|own| name.starts_with(&format!("transport/{own}")))
        {
            for other in transports.iter().filter(|other| *other != own) {
                if text.contains(&format!("transport::{other}")) {
                    wrong.push(format!("{name}: names another transport, {other}"));
                }
            }
        }
    }
    assert!(
        checked > 20,
        "only {checked} files were found in {}",
        source.display()
    );
    assert!(
        wrong.is_empty(),
        "imports against the layers:\n{}",
        wrong.join("\n")
    );
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
