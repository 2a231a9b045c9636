//! Whether the trimming of a stream has overtaken a group: then there are messages that it will never get, and it is told.
//!
//! Publishers trim a stream without asking its groups, and the broker says nothing to a group whose next entries are gone:
//! it goes on with the oldest that is left. So a member asks before it reads, in the same write, how far the group has
//! come and how many entries are gone. Both are counts that a broker keeps since Redis 7; before that only a group whose
//! last entry is gone can be told, whether or not there was another one behind it.
//!
//! Asking costs the broker little, but more than a read that finds nothing. It is put off for as long as trimming
//! needs at the very least to come near.

use std::time::Duration;

use tokio::time::Instant;

use super::fault;
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use super::stream::Place;

/// The most entries that are added to a stream in a second: more than a broker takes.
const FASTEST: u64 = 200_000;
/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// When a member looks, and what it saw.
pub(super) struct Watch {
    due: Instant,
    /// The broker refuses to answer, which was said.
    refused: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now(),
            refused: false,
        }
    }

    /// Whether it is time to look. The only group of a stream of requests is never overtaken: nothing is trimmed there.
    pub(super) fn is_due(&self, place: &Place) -> bool {
        !place.requests && self.due <= Instant::now()
    }

    /// Appends the question.
    pub(super) fn ask(out: &mut Vec<u8>, scripts: &Scripts, place: &Place) {
        scripts.begin(out, Script::Overtaken, &[&place.stream], 1);
        resp::word(out, place.group.as_bytes());
    }

    /// Takes in the answer. Whether the group was overtaken since it was last asked.
    pub(super) fn answered(&mut self, answer: &Value, scripts: &mut Scripts, place: &Place) -> bool {
        let now = Instant::now();
        let (lost, ahead) = match answer {
            Value::Array(parts) => match parts.as_slice() {
                [Value::Int(lost), Value::Int(ahead)] => (*lost, u64::try_from(*ahead).unwrap_or(0)),
                _ => (0, 0),
            },
            Value::Error(error) if fault::is_unknown_script(error) => {
                scripts.forget();
                return false;
            }
            Value::Error(error) => {
                self.due = now + LONGEST;
                // A group that is gone is seen by the read that follows.
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(
                        stream = place.stream,
                        group = place.group,
                        error = fault::text(error),
                        "the broker does not say whether messages are gone that the group has not got yet"
                    );
                }
                return false;
            }
            _ => (0, 0),
        };
        self.refused = false;
        self.due = now + Duration::from_micros(ahead.saturating_mul(1_000_000) / FASTEST).min(LONGEST);
        if lost == 0 {
            return false;
        }
        tracing::error!(
            stream = place.stream,
            group = place.group,
            messages = u64::try_from(lost).ok(),
            "the group was too far behind: the broker has removed messages of the stream that the group never got"
        );
        true
    }
}
