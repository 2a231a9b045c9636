//! What the dependencies are: the rules of `deny.toml` that need neither its tool nor the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The strings of one list of `deny.toml`.
fn listed(list: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, rest) = text
        .split_once(&format!("\n{list} = [\n"))
        .unwrap_or_else(|| panic!("deny.toml has no list `{list}`"));
    let (lines, _) = rest.split_once("\n]").unwrap();
    let quoted = |line: &str| Some(line.split('"').nth(1)?.to_owned());
    let lines = lines.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(quoted).collect()
}

/// Name, version and source of what a lock file names, for all platforms.
fn locked(folder: &str) -> Vec<(String, String, Option<String>)> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.lock")).unwrap();
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(" = ").trim_matches('"').to_owned())
    };
    let packages = text.split("[[package]]").skip(1);
    packages
        .map(|package| {
            let name = field(package, "name").unwrap();
            (name, field(package, "version").unwrap(), field(package, "source"))
        })
        .collect()
}

/// What cargo knows of the packages that are built on this machine.
fn metadata() -> Value {
    let cargo = env!("CARGO");
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--all-features", "--format-version", "1"])
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Whether an SPDX expression can be met with these licences. Old manifests write `/` for OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    let fine = any(&mut words, allowed);
    assert!(words.is_empty(), "cannot read the licence {expression:?}");
    fine
}

fn any(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut fine = all(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        fine |= all(words, allowed);
    }
    fine
}

fn all(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut fine = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        fine &= one(words, allowed);
    }
    fine
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    let (name, rest) = match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let fine = any(words, allowed);
            *words = words.strip_prefix(&[")"]).expect("a closing parenthesis");
            return fine;
        }
        [name, "WITH", exception, rest @ ..] => (format!("{name} WITH {exception}"), rest),
        [name, rest @ ..] => ((*name).to_owned(), rest),
        [] => panic!("a licence is missing"),
    };
    *words = rest;
    allowed.contains(&name)
}

#[test]
fn expressions_are_read() {
    let allowed = ["MIT".to_owned(), "A WITH B".to_owned()];
    for (expression, fine) in [
        ("MIT", true),
        ("X OR MIT", true),
        ("X/MIT", true),
        ("MIT AND X", false),
        ("(MIT OR X) AND A WITH B", true),
        ("A", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), fine, "{expression}");
    }
}

#[test]
fn licences_are_allowed() {
    let (allowed, metadata) = (listed("allow"), metadata());
    let packages = list(&metadata, "packages");
    assert!(packages.len() > 100);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        let name = &package["name"];
        assert!(
            !licence.is_empty() && is_allowed(licence, &allowed),
            "{name}: {licence:?} is not in deny.toml"
        );
    }
}

#[test]
fn what_is_banned_is_not_there_and_all_comes_from_the_registry() {
    let banned = listed("deny");
    assert!(banned.contains(&"openssl".to_owned()));
    for folder in [".", "fuzz"] {
        for (name, _, source) in locked(folder) {
            assert!(!banned.contains(&name), "{folder}/Cargo.lock has {name}");
            let ours = source.is_none() && name.starts_with("commlib");
            assert!(ours || source.as_deref() == Some(REGISTRY), "{name}: {source:?}");
        }
    }
}

#[test]
fn there_is_one_tls_and_one_cryptography() {
    for wanted in ["rustls", "ring", "rustls-webpki", "tokio-rustls"] {
        let packages = locked(".").into_iter();
        let versions: Vec<_> = packages.filter(|(name, ..)| name == wanted).collect();
        assert_eq!(versions.len(), 1, "{versions:?}");
    }
}

#[test]
fn no_version_is_a_wildcard() {
    let metadata = metadata();
    let ours = list(&metadata, "packages")
        .iter()
        .filter(|package| package["source"].is_null());
    for package in ours {
        for dependency in list(package, "dependencies") {
            let wildcard = dependency["req"] == "*" && dependency["path"].is_null();
            assert!(!wildcard, "{}: {}", package["name"], dependency["name"]);
        }
    }
}

/// With this feature a parser can be told to read values of any depth, which overflows the stack.
#[test]
fn nobody_can_turn_off_the_depth_limit_of_json() {
    let metadata = metadata();
    let nodes = list(&metadata["resolve"], "nodes");
    let mut found = 0;
    for node in nodes
        .iter()
        .filter(|node| node["id"].as_str().is_some_and(|id| id.contains("#serde_json@")))
    {
        found += 1;
        assert!(!list(node, "features").contains(&"unbounded_depth".into()));
    }
    assert_eq!(found, 1);
}
