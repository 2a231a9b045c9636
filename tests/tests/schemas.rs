//! Exported contracts: written, compared, and told apart readably.

use std::fs;

use commlib::schema::{Drift, assert_exported, check_exported, export};
use commlib_tests::TempDir;

/// Adds.
#[commlib::rpc_service]
trait Adder {
    async fn add(&self, a: i64, b: i64) -> i64;
}

/// Adds, later.
#[commlib::rpc_service(name = "adder")]
trait LaterAdder {
    async fn add(&self, a: i64, b: i64, c: i64) -> i64;
}

#[commlib::topic]
trait Ticks {
    async fn tick(&self, count: u64);
}

#[test]
fn what_was_exported_is_what_is_compared() {
    let folder = TempDir::new("schemas");
    let contracts = || [AdderClient::contract(), TicksPublisher::contract()];
    let missing = check_exported(folder.path(), contracts()).unwrap();
    assert!(
        matches!(&missing[..], [Drift::Missing(_), Drift::Missing(_)]),
        "{missing:?}"
    );

    export(folder.path(), contracts()).unwrap();
    assert_eq!(check_exported(folder.path(), contracts()).unwrap(), []);
    assert_exported(folder.path(), contracts());
    let first = fs::read(folder.path().join("adder.json")).unwrap();
    export(folder.path(), contracts()).unwrap();
    assert_eq!(
        fs::read(folder.path().join("adder.json")).unwrap(),
        first,
        "exporting again changes nothing"
    );

    let stale = check_exported(folder.path(), [AdderClient::contract()]).unwrap();
    assert!(
        matches!(&stale[..], [Drift::Stale(path)] if path.ends_with("ticks.json")),
        "{stale:?}"
    );
    export(folder.path(), [AdderClient::contract()]).unwrap();
    assert!(!folder.path().join("ticks.json").exists());
}

#[test]
fn a_changed_contract_is_shown_line_by_line() {
    let folder = TempDir::new("schemas");
    export(folder.path(), [AdderClient::contract()]).unwrap();
    let drifts = check_exported(folder.path(), [LaterAdderClient::contract()]).unwrap();
    let text = drifts[0].to_string();
    assert!(text.contains("adder.json differs"), "{text}");
    assert!(text.contains("-   \"description\": \"Adds.\""), "{text}");
    assert!(text.contains("+   \"description\": \"Adds, later.\""), "{text}");
    let told = std::panic::catch_unwind(|| assert_exported(folder.path(), [LaterAdderClient::contract()]));
    let told = told.unwrap_err().downcast::<String>().unwrap();
    assert!(told.contains("COMMLIB_UPDATE_SCHEMAS=1"), "{told}");
}
