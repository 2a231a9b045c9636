//! The machine and the versions, for the page.

use std::fmt::Write as _;
use std::process::Command;

/// A paragraph about what everything ran on.
pub(super) fn describe() -> String {
    let mut out = "## Machine and versions\n\n".to_owned();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1024.0 / 1024.0);
    let _ = writeln!(
        out,
        "- {cores} cores of {model}, {gib:.0} GiB, Linux {}. Everything shares them: broker, server and client.",
        output("uname", &["-r"])
    );
    let redis = output("redis-server", &["--version"]);
    let redis = redis
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or("?");
    let _ = writeln!(
        out,
        "- Redis {redis}, RabbitMQ {}, {}, {}.",
        debian("rabbitmq-server"),
        output("/usr/sbin/nats-server", &["--version"]).replace(": v", " "),
        output("rustc", &["--version"]),
    );
    let mut versions = Vec::new();
    for (lock, names) in [
        (
            "Cargo.lock",
            &["commlib", "tokio", "lapin", "redis", "serde_json"][..],
        ),
        (
            "benches/peers/Cargo.lock",
            &[
                "tarpc",
                "async-nats",
                "kanin",
                "ruststream",
                "ruststream-lapin",
                "ruststream-fred",
            ][..],
        ),
    ] {
        let text = std::fs::read_to_string(lock).unwrap_or_default();
        for name in names {
            if let Some(version) = version(&text, name) {
                versions.push(format!("{name} {version}"));
            }
        }
    }
    let python = std::fs::read_to_string("benches/python/requirements.txt").unwrap_or_default();
    versions.extend(
        python
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains("=="))
            .map(|line| line.replace("==", " ")),
    );
    let _ = writeln!(out, "- {}. Release builds, no LTO.", versions.join(", "));
    out
}

fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_else(|_| format!("{program}: not there"))
}

fn debian(package: &str) -> String {
    output("dpkg-query", &["-W", "-f", "${Version}", package])
}

/// The version of a package in a lock file; the last one if there are several.
fn version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let head = format!("name = \"{name}\"\nversion = \"");
    let at = lock.rfind(&head)? + head.len();
    lock[at..].split('"').next()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_version_is_found_in_a_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"ab\"\nversion = \"2.0.0\"\n";
        assert_eq!(version(lock, "a"), Some("1.2.3"));
        assert_eq!(version(lock, "ab"), Some("2.0.0"));
        assert_eq!(version(lock, "b"), None);
    }
}
