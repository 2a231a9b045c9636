//! Waiting for a condition, with a limit.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

/// What [`eventually`] can wait for.
pub trait Condition {
    /// What is there once the condition holds.
    type Value;

    /// The value, or why the condition does not hold yet.
    ///
    /// # Errors
    /// When it does not hold.
    fn check(self) -> Result<Self::Value, String>;
}

impl Condition for bool {
    type Value = ();

    fn check(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn check(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Debug> Condition for Result<T, E> {
    type Value = T;

    fn check(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Asks `probe` again and again until it says true, some value or `Ok`, and returns the value.
///
/// Put what you see into the error of a `Result`, and a failure tells it. A probe that does not return is
/// given up at the limit too. Time is that of the runtime: with a paused clock the limit passes in no time.
///
/// # Panics
/// After `limit`, at the caller's line, with the last answer.
#[track_caller]
pub fn eventually<P, F, C>(limit: Duration, mut probe: P) -> impl Future<Output = C::Value>
where
    P: FnMut() -> F,
    F: Future<Output = C>,
    C: Condition,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        let mut last = "no answer yet".to_owned();
        loop {
            match tokio::time::timeout_at(end, probe()).await {
                Ok(answer) => match answer.check() {
                    Ok(value) => return value,
                    Err(why) => last = why,
                },
                Err(_) => {
                    panic!("not within {limit:?} at {caller}: the last probe did not end; before: {last}")
                }
            }
            assert!(Instant::now() < end, "not within {limit:?} at {caller}: {last}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}
