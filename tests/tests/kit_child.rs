//! Tests of child processes and of waiting with a limit.

use std::cell::Cell;
use std::time::Duration;

use commlib_tests::{Program, Signal, TempDir, eventually};

const SOON: Duration = Duration::from_secs(30);

fn sh(script: &str) -> Program {
    Program::new("sh").args(["-c", script]).name("script")
}

/// The panic message of `test`.
async fn panic_of(test: impl Future<Output = ()> + Send + 'static) -> String {
    let error = tokio::spawn(test).await.expect_err("did not panic").into_panic();
    let text = error.downcast_ref::<String>().cloned();
    text.or_else(|| error.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .expect("a message")
}

#[tokio::test]
async fn lines_come_one_after_the_other() {
    let mut child = sh("echo one; echo oops >&2; echo two; echo ready; echo last; printf half").start();
    assert_eq!(child.next_line(SOON).await.as_deref(), Some("one"));
    assert_eq!(child.wait_line("ready", SOON).await, "ready");
    assert_eq!(child.next_line(SOON).await.as_deref(), Some("last"));
    assert_eq!(child.next_line(SOON).await.as_deref(), Some("half"));
    assert_eq!(child.next_line(SOON).await, None);
    assert!(child.wait(SOON).await.success());
    assert_eq!(child.stdout(), ["one", "two", "ready", "last", "half"]);
    assert_eq!(child.stderr(), ["oops"]);
}

#[tokio::test]
async fn run_tells_code_and_output() {
    let done = sh("echo $A; echo no >&2; exit 3").env("A", "yes").run(SOON).await;
    assert_eq!(
        (done.code, done.stdout, done.stderr),
        (Some(3), vec!["yes".into()], vec!["no".into()])
    );
    let folder = TempDir::new("cwd");
    let done = sh("pwd; cat").folder(folder.path()).run(SOON).await;
    assert_eq!(done.stdout, [folder.path().display().to_string()]);
}

#[tokio::test]
async fn a_signal_reaches_the_program() {
    let mut child = sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done").start();
    child.wait_line("ready", SOON).await;
    assert_eq!(child.status(), None);
    child.signal(Signal::SIGTERM);
    assert_eq!(child.wait(SOON).await.code(), Some(7));
    assert_eq!(child.next_line(SOON).await.as_deref(), Some("bye"));
}

#[tokio::test]
async fn kill_takes_the_whole_group() {
    let mut child = sh("sleep 1000 & echo $!; wait").start();
    let below = child.next_line(SOON).await.unwrap();
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{below}/stat")).unwrap_or_default();
        stat.contains(") S")
    };
    eventually(SOON, async || runs()).await;
    child.kill().await;
    assert_eq!(child.wait(SOON).await.code(), None);
    eventually(SOON, async || !runs()).await;
}

#[tokio::test]
async fn a_dropped_child_is_killed() {
    let child = sh("sleep 1000").start();
    let proc = format!("/proc/{}", child.pid());
    assert!(std::fs::exists(&proc).unwrap());
    drop(child);
    assert!(!std::fs::exists(&proc).unwrap());
}

#[tokio::test]
async fn waits_have_a_limit_and_say_what_was_missing() {
    let short = Duration::from_millis(50);
    let text = panic_of(async move {
        sh("echo a; sleep 1000").start().wait_line("ready", short).await;
    });
    assert_eq!(text.await, "script printed no line with \"ready\" within 50ms");
    let text = panic_of(async move {
        sh("echo a").start().wait_line("ready", SOON).await;
    });
    assert_eq!(
        text.await,
        "script ended its output without a line with \"ready\""
    );
    let text = panic_of(async move {
        sh("sleep 1000").start().wait(short).await;
    });
    assert_eq!(text.await, "script did not end within 50ms");
}

#[tokio::test]
async fn eventually_returns_the_value() {
    let count = Cell::new(0);
    let next = async || {
        count.set(count.get() + 1);
        count.get()
    };
    assert_eq!(
        eventually(SOON, async || Some(next().await).filter(|&n| n == 3)).await,
        3
    );
    eventually(SOON, async || next().await == 5).await;
    assert_eq!(
        eventually(SOON, || async {
            if next().await < 8 { Err("few") } else { Ok("many") }
        })
        .await,
        "many"
    );
}

#[tokio::test]
async fn eventually_has_a_limit_and_names_place_and_reason() {
    let short = Duration::from_millis(30);
    let text = panic_of(async move {
        let never: Result<(), &str> = Err("three of four");
        eventually(short, async || never).await;
    });
    let text = text.await;
    assert!(
        text.starts_with("not within 30ms at ") && text.ends_with(": \"three of four\""),
        "{text}"
    );
    assert!(text.contains("kit_child.rs:"), "{text}");
    let text =
        panic_of(async move { eventually(short, async || std::future::pending::<bool>().await).await });
    assert!(text.await.contains("the last probe did not end"));
}

#[tokio::test]
async fn a_temporary_folder_goes_with_its_value() {
    let folder = TempDir::new("name");
    let path = folder.path().to_owned();
    std::fs::write(path.join("file"), "x").unwrap();
    drop(folder);
    assert!(!path.exists());
}
