//! Tests of the test kit itself: a kit that is wrong makes every other test worthless.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use commlib_tests::{RabbitMq, RedisServer, Reply, TempDir, unique};

#[tokio::test]
async fn redis_answers_and_keeps_data_over_kill_and_restart() {
    let redis = RedisServer::start().await;
    let first = redis.pid();
    assert_eq!(
        redis.command(&["SET", "k", "v"]).await,
        Reply::Status("OK".into())
    );
    redis.kill().await;
    assert_eq!(redis.pid(), None);
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", redis.port())).is_err(),
        "killed, yet it listens"
    );
    redis.restart().await;
    assert_ne!(redis.pid(), first);
    assert_eq!(redis.command(&["GET", "k"]).await.bytes(), Some(&b"v"[..]));
    redis.restart().await;
    assert_eq!(redis.keys("*").await, ["k"]);
}

#[tokio::test]
async fn redis_without_a_file_forgets() {
    let redis = RedisServer::start_with(&["--appendonly", "no"]).await;
    redis.command(&["SET", "k", "v"]).await;
    redis.kill().await;
    redis.restart().await;
    assert_eq!(redis.command(&["GET", "k"]).await, Reply::Nil);
}

#[tokio::test]
async fn frozen_redis_is_silent_and_thaws() {
    let redis = RedisServer::start().await;
    let mut client = redis.client().await;
    redis.freeze();
    client.send(&["PING"]).await;
    let answer = tokio::time::timeout(Duration::from_millis(200), client.read()).await;
    assert!(answer.is_err(), "a frozen server answered {answer:?}");
    redis.thaw();
    assert_eq!(client.read().await, Reply::Status("PONG".into()));
    redis.freeze();
    redis.stop().await;
    assert_eq!(redis.pid(), None);
}

#[tokio::test]
async fn redis_replies_are_told_apart() {
    let redis = RedisServer::shared().await;
    let key = unique("list");
    let mut client = redis.client().await;
    assert_eq!(client.command(&["RPUSH", &key, "a", "b"]).await.int(), 2);
    assert_eq!(
        client.command(&["LRANGE", &key, "0", "-1"]).await.strings(),
        ["a", "b"]
    );
    assert_eq!(client.command(&["GET", "no-such-key"]).await, Reply::Nil);
    let wrong = client.command(&["GET", &key]).await;
    assert!(
        matches!(&wrong, Reply::Error(text) if text.starts_with("WRONGTYPE")),
        "{wrong:?}"
    );
    let empty = client.command(&["LRANGE", "no-such-key", "0", "-1"]).await;
    assert_eq!(empty, Reply::Array(Vec::new()));
}

#[tokio::test]
async fn shared_redis_is_one() {
    let (one, two) = tokio::join!(RedisServer::shared(), RedisServer::shared());
    assert_eq!(one.url(), two.url());
    let own = RedisServer::start().await;
    assert_ne!(own.url(), one.url());
}

#[tokio::test]
async fn rabbitmq_takes_commands_and_comes_back() {
    let rabbit = RabbitMq::start().await;
    let first = rabbit.pid();
    rabbit.ctl(&["eval", "rabbit_amqqueue:declare(rabbit_misc:r(<<\"/\">>, queue, <<\"kept\">>), true, false, [], none, <<\"me\">>)."]).await;
    assert_eq!(
        rabbit.list(&["list_queues", "name", "messages"]).await,
        [["kept", "0"]]
    );
    let error = rabbit.try_ctl(&["no_such_command"]).await;
    assert!(error.is_err(), "{error:?}");
    rabbit.freeze();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", rabbit.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::WouldBlock,
        "a frozen server answered"
    );
    rabbit.thaw();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    rabbit.kill().await;
    rabbit.restart().await;
    assert_ne!(rabbit.pid(), first);
    assert_eq!(
        rabbit.list(&["list_queues", "name", "messages"]).await,
        [["kept", "0"]]
    );
    rabbit.stop().await;
    assert_eq!(rabbit.pid(), None);
}

#[tokio::test]
async fn shared_rabbitmq_is_one() {
    let (one, two) = tokio::join!(RabbitMq::shared(), RabbitMq::shared());
    assert_eq!(one.url(), two.url());
    // Other tests of the run may have made virtual hosts of their own.
    let hosts = one.list(&["list_vhosts", "name"]).await;
    assert!(hosts.iter().any(|row| row == &["/"]), "{hosts:?}");
}

#[test]
fn unique_names_are_one_level_and_differ() {
    let (one, two) = (unique("a_b"), unique("a_b"));
    assert_ne!(one, two);
    assert!(one.starts_with("a_b-") && one.len() == 14, "{one}");
    assert!(
        one.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{one}"
    );
}

/// Starts `leave-behind` and reads its line: a number and a URL.
fn leave_behind(kind: &str) -> (Child, u32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leave-behind"));
    let mut child = command
        .arg(kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let (number, url) = line
        .trim()
        .split_once(' ')
        .unwrap_or_else(|| panic!("{kind} printed {line:?}"));
    (child, number.parse().unwrap(), url.to_owned())
}

/// Waits until `gone` says so.
fn until(what: &str, gone: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !gone() {
        assert!(Instant::now() < end, "10 s after the kill: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process runs; a zombie does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_killed_test_leaves_no_redis() {
    let (mut child, pid, url) = leave_behind("redis");
    let socket = url.strip_prefix("redis+unix://").unwrap().to_owned();
    let folder = Path::new(&socket).parent().unwrap();
    assert!(runs(pid) && folder.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    until("redis-server runs", || !runs(pid));
    until("its folder exists", || !folder.exists());
}

#[test]
fn a_killed_test_leaves_no_rabbitmq() {
    let (mut child, pid, url) = leave_behind("rabbitmq");
    let port: u16 = url
        .rsplit_once(':')
        .unwrap()
        .1
        .trim_end_matches("/%2f")
        .parse()
        .unwrap();
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    let family = family(pid);
    assert!(family.len() >= 3, "the Erlang machine has helpers: {family:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    until("a process of RabbitMQ runs", || {
        !family.iter().any(|&pid| runs(pid))
    });
    until("its folder exists", || !folder.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(processes_in(&folder), Vec::<u32>::new());
}

#[test]
fn a_shared_broker_ends_with_the_one_that_runs_the_tests() {
    // The parent of this process's child is no cargo: the child itself is then the runner.
    let (mut child, port, url) = leave_behind("shared-redis");
    let socket = url.strip_prefix("redis+unix://").unwrap().to_owned();
    let connects = || std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).is_ok();
    assert!(connects());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    until("the shared Redis listens", || !connects());
    until("its folder exists", || {
        !Path::new(&socket).ancestors().nth(2).unwrap().exists()
    });
}

#[test]
fn a_failing_test_shows_what_its_processes_said_and_leaves_none() {
    let done = Command::new(env!("CARGO_BIN_EXE_leave-behind"))
        .arg("failing")
        .output()
        .unwrap();
    assert!(!done.status.success());
    let said = String::from_utf8(done.stderr).unwrap();
    for text in [
        "as asked",
        "out | said",
        "err | cried",
        "log of redis-server",
        "Ready to accept connections",
    ] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
    let first = String::from_utf8(done.stdout).unwrap();
    let folder = first
        .trim()
        .split_once("redis+unix://")
        .unwrap()
        .1
        .trim_end_matches("/redis.sock");
    until("its folder exists", || !Path::new(folder).exists());
    assert_eq!(processes_in(Path::new(folder)), Vec::<u32>::new());
}

#[test]
fn a_missing_broker_fails_and_names_the_remedy() {
    // A PATH with nothing but what the reaper needs.
    let tools = TempDir::new("tools");
    for tool in ["sh", "sleep", "rm"] {
        std::os::unix::fs::symlink(format!("/bin/{tool}"), tools.path().join(tool)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_leave-behind"));
    let done = command.arg("redis").env("PATH", tools.path()).output().unwrap();
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains("`redis-server` is not installed") && said.contains("scripts/test"),
        "{said}"
    );
}

/// The processes that have `folder` as their working folder.
fn processes_in(folder: &Path) -> Vec<u32> {
    let here = |pid: &u32| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        // A folder that has been removed has another ending.
        cwd.is_ok_and(|cwd| cwd.to_string_lossy().starts_with(&*folder.to_string_lossy())) && runs(*pid)
    };
    processes().filter(here).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// A process and all processes below it.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            parents
                .iter()
                .filter(|(_, above)| *above == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    family
}
