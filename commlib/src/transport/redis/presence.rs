//! The sign that a server gives of itself, so that callers learn at once when nobody serves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::encode::presence_key;
use super::handle::Handle;
use super::jobs::Call;
use super::scripts::Script;
use crate::address::Address;

/// How often a server says that it is there.
const EVERY: Duration = Duration::from_secs(3);
/// How long that holds, in ms.
const HOLDS_MS: &str = "10000";

/// The presence of one consumer at its addresses.
pub(super) struct Presence {
    handle: Arc<Handle>,
    keys: Vec<String>,
    /// Names the consumer.
    member: String,
    /// When to say again that it is there.
    pub(super) due: Interval,
}

impl Presence {
    pub(super) fn new(handle: Arc<Handle>, addresses: &[Address], member: String) -> Self {
        let keys = addresses.iter().map(|address| presence_key(address.as_str()));
        Self {
            keys: keys.collect(),
            handle,
            member,
            due: regular(EVERY),
        }
    }

    /// The script call that says so, for whoever wants to know the outcome.
    pub(super) fn call(&self) -> Call {
        Call {
            script: Script::Presence,
            keys: self.keys.clone(),
            arguments: vec![Bytes::from(self.member.clone()), HOLDS_MS.into()],
            what: "announce a server",
            done: None,
        }
    }

    /// Says that the server is there.
    pub(super) fn announce(&self) {
        self.handle.queue(super::jobs::Job::Call(self.call()));
    }

    /// Takes it back.
    pub(super) async fn leave(&self) {
        let removals = self.keys.iter().map(|key| {
            let removal = async move {
                let words: [&[u8]; 3] = [b"ZREM", key.as_bytes(), self.member.as_bytes()];
                let limit = Duration::from_secs(1);
                if let Err(error) = self.handle.ask(limit, "take back a presence", &words).await {
                    tracing::debug!(%error, "a presence runs out by itself");
                }
            };
            removal.boxed()
        });
        futures_util::future::join_all(removals).await;
    }
}

/// Ticks that are not made up for, the first of them after a period.
pub(super) fn regular(period: Duration) -> Interval {
    let mut regular = interval(period);
    regular.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one would come at once.
    regular.reset();
    regular
}
