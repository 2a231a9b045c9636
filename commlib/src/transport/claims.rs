//! Claims on idempotency keys in the memory of this process, for transports whose broker can't keep them, and for the
//! in-process bus.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Claim, Claimed};
use crate::envelope::Envelope;

/// Keys that are remembered at most; the ones that were touched longest ago go.
const MOST: usize = 10_000;
/// Bytes of answers that are remembered at most.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The claims.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<(String, String), Entry>,
    /// By when they were touched last.
    touched: BTreeMap<u64, (String, String)>,
    number: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    body: u128,
    owner: String,
    answer: Option<Envelope>,
    until: Instant,
    number: u64,
}

impl Claims {
    pub(super) fn claim(&self, claim: Claim) -> Claimed {
        let now = Instant::now();
        let mut table = self.0.lock();
        table.forget(now);
        let key = (claim.address.to_string(), claim.key);
        if let Some(entry) = table.by_key.get(&key) {
            if entry.body != claim.body {
                return Claimed::OtherBody;
            }
            if let Some(answer) = &entry.answer {
                return Claimed::Answered(Box::new(answer.clone()));
            }
            if entry.owner != claim.owner {
                return Claimed::Taken;
            }
        }
        table.put(key, claim.body, claim.owner, None, now + claim.window);
        Claimed::Granted
    }

    pub(super) fn conclude(&self, claim: Claim, answer: Option<Envelope>) {
        let now = Instant::now();
        let mut table = self.0.lock();
        let key = (claim.address.to_string(), claim.key);
        let others = table
            .by_key
            .get(&key)
            .is_some_and(|entry| entry.owner != claim.owner && entry.until > now);
        if others {
            return;
        }
        match answer {
            Some(answer) => table.put(key, claim.body, claim.owner, Some(answer), now + claim.window),
            None => table.remove(&key),
        }
        table.forget(now);
    }
}

impl Table {
    fn put(
        &mut self,
        key: (String, String),
        body: u128,
        owner: String,
        answer: Option<Envelope>,
        until: Instant,
    ) {
        self.remove(&key);
        self.number += 1;
        self.bytes += size(answer.as_ref());
        self.touched.insert(self.number, key.clone());
        let entry = Entry {
            body,
            owner,
            answer,
            until,
            number: self.number,
        };
        self.by_key.insert(key, entry);
    }

    fn remove(&mut self, key: &(String, String)) {
        if let Some(entry) = self.by_key.remove(key) {
            self.bytes -= size(entry.answer.as_ref());
            self.touched.remove(&entry.number);
        }
    }

    /// Forgets what is over, and what is too much. Windows of one server are of one length, so what was touched first is
    /// over first; with several lengths some are forgotten later, never sooner.
    fn forget(&mut self, now: Instant) {
        while let Some((_, key)) = self.touched.first_key_value() {
            let over = self.by_key.get(key).is_none_or(|entry| entry.until <= now);
            if !over && self.by_key.len() <= MOST && self.bytes <= MOST_BYTES {
                return;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }
}

fn size(answer: Option<&Envelope>) -> usize {
    answer.map_or(0, |answer| {
        let details = answer
            .meta
            .error
            .as_ref()
            .map_or(0, |error| error.details.len() + error.message.len());
        answer.data.len() + details
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::address::Address;

    const WINDOW: Duration = Duration::from_secs(60);

    fn claim(key: &str, body: u128, owner: &str) -> Claim {
        Claim {
            address: Address::new("orders.place").unwrap(),
            key: key.to_owned(),
            body,
            owner: owner.to_owned(),
            window: WINDOW,
        }
    }

    fn answer(text: &'static str) -> Envelope {
        Envelope {
            data: Bytes::from_static(text.as_bytes()),
            ..Envelope::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_one_owners_until_it_is_answered_or_over() {
        let claims = Claims::default();
        assert_eq!(claims.claim(claim("k", 1, "a")), Claimed::Granted);
        assert_eq!(
            claims.claim(claim("k", 1, "a")),
            Claimed::Granted,
            "delivered again"
        );
        assert_eq!(claims.claim(claim("k", 1, "b")), Claimed::Taken);
        assert_eq!(claims.claim(claim("k", 2, "b")), Claimed::OtherBody);
        assert_eq!(claims.claim(claim("other", 2, "b")), Claimed::Granted);
        claims.conclude(claim("k", 1, "b"), None);
        assert_eq!(claims.claim(claim("k", 1, "b")), Claimed::Taken, "not its own");
        claims.conclude(claim("k", 1, "a"), None);
        assert_eq!(claims.claim(claim("k", 1, "b")), Claimed::Granted, "given up");
        claims.conclude(claim("k", 1, "b"), Some(answer("done")));
        assert_eq!(
            claims.claim(claim("k", 1, "c")),
            Claimed::Answered(Box::new(answer("done")))
        );
        tokio::time::advance(WINDOW).await;
        assert_eq!(claims.claim(claim("k", 2, "c")), Claimed::Granted);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let claims = Claims::default();
        for key in 0..MOST + 10 {
            claims.conclude(claim(&key.to_string(), 1, "a"), Some(answer("x")));
        }
        assert_eq!(claims.claim(claim("0", 1, "b")), Claimed::Granted);
        let last = (MOST + 9).to_string();
        assert_eq!(
            claims.claim(claim(&last, 1, "b")),
            Claimed::Answered(Box::new(answer("x")))
        );
        let large = Envelope {
            data: Bytes::from(vec![0; MOST_BYTES]),
            ..Envelope::default()
        };
        claims.conclude(claim("large", 1, "a"), Some(large));
        claims.conclude(claim("last", 1, "a"), Some(answer("x")));
        assert_eq!(claims.claim(claim("large", 1, "b")), Claimed::Granted);
        for _ in 0..100 {
            claims.claim(claim("again", 1, "a"));
        }
        let table = claims.0.lock();
        assert_eq!(table.touched.len(), table.by_key.len());
        assert!(table.by_key.len() <= MOST && table.bytes <= MOST_BYTES);
    }
}
