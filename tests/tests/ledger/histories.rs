//! Made-up histories: the ledger sees what is wrong with each, and only that.

use std::time::Duration;

use commlib::Execution;
use commlib_tests::ledger::{Finding, Ledger, Outcome, Promise};

const MS: Duration = Duration::from_millis(1);

/// A call that is made at 0 and has a second; its value is ten times its number.
fn call(id: u64, ended: Option<(u32, Outcome)>, runs: u32) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.invoke(id, id * 10, Duration::ZERO, MS * 1000);
    if let Some((ms, outcome)) = ended {
        ledger.end(id, MS * ms, outcome);
    }
    (0..runs).for_each(|_| ledger.ran(id));
    ledger
}

fn reply(of: u64, value: u64) -> Outcome {
    Outcome::Reply { of, value }
}

fn error(execution: Execution) -> Outcome {
    Outcome::Error {
        execution,
        code: "unavailable".to_owned(),
    }
}

/// All findings of a history.
fn found(ledger: &Ledger) -> Vec<(Finding, usize)> {
    use Finding::{Duplicated, Hung, Lied, Lost, Misdelivered, Recovered, Unexpected};
    let verdict = ledger.check(Promise::AtMostOnce);
    [Lost, Duplicated, Unexpected, Recovered, Hung, Misdelivered, Lied]
        .into_iter()
        .map(|finding| (finding, verdict.count(finding)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn honest_histories_are_clean() {
    for ledger in [
        call(1, Some((5, reply(1, 10))), 1),
        call(1, Some((5, Outcome::Accepted)), 1),
        call(1, Some((5, error(Execution::DidNotRun))), 0),
        call(1, Some((5, error(Execution::MayHaveRun))), 0),
        call(1, Some((5, error(Execution::Failed))), 1),
        call(1, Some((1250, error(Execution::MayHaveRun))), 0),
    ] {
        assert_eq!(found(&ledger), [], "{ledger:?}");
        let verdict = ledger.check(Promise::AtMostOnce);
        assert!(verdict.is_kept(), "{verdict}");
    }
}

#[test]
fn each_fault_is_seen_alone() {
    for (ledger, finding) in [
        (call(1, None, 0), Finding::Hung),
        (
            call(1, Some((1251, error(Execution::DidNotRun))), 0),
            Finding::Hung,
        ),
        (call(1, Some((5, reply(2, 10))), 1), Finding::Misdelivered),
        (call(1, Some((5, reply(1, 20))), 1), Finding::Misdelivered),
        (call(1, Some((5, error(Execution::DidNotRun))), 1), Finding::Lied),
        (call(1, Some((5, error(Execution::Failed))), 0), Finding::Lied),
        (call(1, Some((5, reply(1, 10))), 2), Finding::Duplicated),
        (call(1, Some((5, reply(1, 10))), 0), Finding::Lost),
        (call(1, Some((5, Outcome::Accepted)), 0), Finding::Lost),
    ] {
        assert_eq!(found(&ledger), [(finding, 1)], "{ledger:?}");
        let verdict = ledger.check(Promise::AtMostOnce);
        assert!(
            !verdict.is_kept() && verdict.to_string().contains("BROKEN"),
            "{verdict}"
        );
    }
    let mut stranger = call(1, Some((5, reply(1, 10))), 1);
    stranger.ran(2);
    assert_eq!(found(&stranger), [(Finding::Unexpected, 1)]);
}

#[test]
fn what_was_unknown_may_have_happened() {
    let ledger = call(1, Some((5, error(Execution::MayHaveRun))), 1);
    assert_eq!(found(&ledger), [(Finding::Recovered, 1)]);
    ledger.check(Promise::AtMostOnce).assert_kept();
}

#[test]
fn at_least_once_allows_more_runs_and_no_loss() {
    let twice = call(1, Some((5, Outcome::Accepted)), 2);
    assert!(twice.check(Promise::AtLeastOnce).is_kept());
    assert!(!twice.check(Promise::AtMostOnce).is_kept());
    assert!(
        !call(1, Some((5, Outcome::Accepted)), 0)
            .check(Promise::AtLeastOnce)
            .is_kept()
    );
    assert_eq!(call(7, Some((5, Outcome::Accepted)), 0).missing(), [7]);
}

#[test]
fn a_slow_machine_is_not_held_against_the_library() {
    let mut ledger = call(1, Some((1300, error(Execution::MayHaveRun))), 0);
    assert_eq!(found(&ledger), [(Finding::Hung, 1)]);
    ledger.lagged(MS * 60);
    ledger.lagged(MS * 20);
    assert_eq!(found(&ledger), []);
    // Nor is the time that its threads waited for a processor after the deadline.
    let mut ledger = call(1, Some((1300, error(Execution::MayHaveRun))), 0);
    ledger.waited(MS * 500, MS * 10);
    ledger.waited(MS * 999, MS * 500);
    ledger.waited(MS * 1200, MS * 530);
    ledger.waited(MS * 1310, MS * 540);
    assert_eq!(found(&ledger), [(Finding::Hung, 1)]);
    ledger.waited(MS * 1300, MS * 560);
    assert_eq!(found(&ledger), []);
    // It says so, and names the latest.
    let report = ledger.check(Promise::AtMostOnce).to_string();
    assert!(report.contains("1 late by the machine's fault"), "{report}");
    assert!(
        report.contains("300ms after its deadline (1, begun at"),
        "{report}"
    );
}

#[test]
#[should_panic(expected = "two calls of number 1")]
fn a_number_is_used_once() {
    let mut ledger = call(1, None, 0);
    ledger.invoke(1, 10, Duration::ZERO, MS);
}
