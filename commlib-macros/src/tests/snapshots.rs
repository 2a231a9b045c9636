//! Whole expansions, pretty-printed and committed, so that a reader of a diff sees what generated code becomes.
//!
//! `COMMLIB_UPDATE_SNAPSHOTS=1 cargo test -p commlib-macros snapshots` rewrites them.

use std::path::Path;

use super::{good, rpc, topic};

#[track_caller]
fn check(name: &str, output: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/tests/snapshots")
        .join(format!("{name}.rs"));
    if std::env::var_os("COMMLIB_UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        std::fs::write(&path, output).expect("the snapshot can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != output {
        let line = expected
            .lines()
            .zip(output.lines())
            .position(|(old, new)| old != new);
        let line = line.unwrap_or_else(|| expected.lines().count().min(output.lines().count()));
        panic!(
            "expansion `{name}` differs from {} at line {}\n  was: {}\n  now: {}\n\
             if that is right, run COMMLIB_UPDATE_SNAPSHOTS=1 cargo test -p commlib-macros snapshots",
            path.display(),
            line + 1,
            expected.lines().nth(line).unwrap_or("(end)"),
            output.lines().nth(line).unwrap_or("(end)"),
        );
    }
}

#[test]
fn calculator() {
    let trait_ = r#"
        /// Does sums.
        pub trait Calculator {
            /// Adds two integers.
            #[rpc(idempotent)]
            async fn add(&self, a: i64, b: i64) -> Sum;
            #[rpc(timeout = "2s")]
            async fn div(&self, ctx: &RequestContext, a: i64, b: i64) -> Result<i64, DivError>;
            #[rpc(oneway)]
            async fn reset(&self);
        }
    "#;
    check("calculator", &good(rpc(r#"name = "calculator""#, trait_)));
}

#[test]
fn every_option_of_a_service() {
    let trait_ = r#"
        pub(crate) trait Store: Clone {
            #[rpc(body, name = "put-it")]
            async fn put(&self, item: Item) -> () { drop(item) }
            #[cfg(feature = "search")]
            #[deprecated(note = "use `find`")]
            #[must_use]
            #[expect(clippy::too_many_arguments)]
            #[tracing::instrument]
            async fn r#match(&self, r#type: String, #[rpc(default)] limit: u32, #[rpc(name = "orderBy")] order_by: Option<String>) -> Vec<Item>;
        }
    "#;
    check("store", &good(rpc("crate = crate::reexports::messaging", trait_)));
}

#[test]
fn sensors() {
    let trait_ = r#"
        /// What the robot feels.
        pub trait Sensors {
            /// Distance to the next obstacle.
            #[topic("sonar.{side}.{index}")]
            async fn sonar(&self, index: u8, ctx: &MessageContext, side: Side, reading: Sonar);
            #[topic(durable)]
            async fn bumper(&self, hit: Bump) -> Result<(), Missed>;
        }
    "#;
    check("sensors", &good(topic(r#"prefix = "sensors""#, trait_)));
}

#[test]
fn errors_leave_the_trait_and_stand_ins() {
    let trait_ = r#"
        pub trait Broken<T> {
            async fn good(&self, a: i64) -> Sum;
            async fn bad(&self, (a, b): (i64, i64), name: &str) -> impl Display;
        }
    "#;
    let (output, errors) = rpc("", trait_);
    assert_eq!(errors.len(), 4, "{errors:#?}");
    check("broken", &output);
}
