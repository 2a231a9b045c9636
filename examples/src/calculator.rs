//! The calculator: a service with a plain method, one that fails with an error of its own, and one that takes its time.

use commlib::prelude::*;

/// The result of a calculation.
///
/// A whole number is written without a fraction: 1 + 2 is `{"c": 3}`, and 7 / 2 is `{"c": 3.5}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The value.
    #[serde(serialize_with = "number")]
    pub c: f64,
}

/// Why there is no quotient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum DivError {
    /// The divisor is 0.
    #[error("division by zero")]
    ByZero,
}

/// How long it really slept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slept {
    /// Time in ms.
    pub slept: u64,
}

/// Calculates with numbers: integers up to 2^53 are exact, all others are what 64-bit floating point makes of them.
#[commlib::rpc_service(name = "calculator")]
pub trait Calculator {
    /// Adds two numbers.
    #[rpc(idempotent)]
    async fn add(&self, a: f64, b: f64) -> Answer;

    /// Divides `a` by `b`.
    #[rpc(idempotent)]
    async fn div(&self, a: f64, b: f64) -> Result<Answer, DivError>;

    /// Answers after so many ms, or earlier when the caller gives up or the server ends.
    #[rpc(idempotent)]
    async fn sleep(&self, ctx: &RequestContext, ms: u64) -> Slept;
}

/// Writes a number, a whole one without a fraction where that is exact.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the guard leaves only values that an i64 holds exactly"
)]
fn number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match *value {
        // JSON has no such numbers, and `null` would be a failure that looks like an answer.
        value if !value.is_finite() => Err(serde::ser::Error::custom("the result is too large for a number")),
        value if value.fract() == 0.0 && value.abs() <= EXACT => serializer.serialize_i64(value as i64),
        value => serializer.serialize_f64(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let json = |c| serde_json::to_string(&Answer { c }).map_err(|error| error.to_string());
        assert_eq!(json(3.0).unwrap(), r#"{"c":3}"#);
        assert_eq!(json(-2.0).unwrap(), r#"{"c":-2}"#);
        assert_eq!(json(3.5).unwrap(), r#"{"c":3.5}"#);
        // Too large to be exact, so written as the number that it is.
        assert_eq!(
            json(1e16).unwrap().parse::<serde_json::Value>().unwrap()["c"].as_f64(),
            Some(1e16)
        );
        assert!(json(f64::INFINITY).unwrap_err().contains("too large"));
    }
}
