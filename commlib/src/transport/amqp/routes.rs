//! Which of two channels a request takes: one that the broker confirms, or one that it does not.
//!
//! A confirm costs broker and client a good part of what a call costs in all, and a reply proves more than a confirm
//! does. It is needed only where no reply may come: when the queue is full and the broker refuses the request, or when
//! its channel is closed because of it. So a request goes unconfirmed as long as calls of the same address are known
//! to be answered soon: then the queue is short, it can't become full before that is seen, and the user may write to
//! it. All others are confirmed: the first, the next after a pause, and every one to a server that is slow or behind.
//!
//! What is known comes from samples: one request of each address at a time is watched until its reply comes.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::address::Address;

/// An answer that comes within this time came from a short queue: brokers pass on some 50,000 messages of a queue in a
/// second, and a queue takes 10,000.
const SOON: Duration = Duration::from_millis(50);
/// How long that is believed.
const BELIEVED: Duration = Duration::from_millis(100);
/// And for how many requests of this node, should they come in a burst that the broker takes faster than that.
const BELIEVED_FOR: u32 = 2_000;
/// Addresses that are known; more of them are forgotten when they were not used lately.
const MAX_KNOWN: usize = 1024;
/// Requests that are watched at once.
const MAX_WATCHED: usize = 16;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Addresses whose calls are believed to be answered soon.
    soon: HashMap<Address, Belief>,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Belief {
    until: Instant,
    requests: u32,
}

#[derive(Debug)]
struct Watched {
    id: String,
    address: Address,
    since: Instant,
}

impl Routes {
    /// Whether a request that is sent now should be confirmed.
    pub(super) fn wants_confirm(&self, address: &Address, id: &str, now: Instant) -> bool {
        let mut known = self.known.lock();
        let watched = known
            .watched
            .iter()
            .position(|watched| watched.address == *address);
        let overdue = watched
            .and_then(|at| known.watched.get(at))
            .is_some_and(|watched| now.duration_since(watched.since) > SOON);
        if overdue {
            known.soon.remove(address);
        }
        if watched.is_none() || overdue {
            if let Some(at) = watched {
                known.watched.swap_remove(at);
            }
            known.watch(address, id, now);
        }
        match known.soon.get_mut(address) {
            Some(belief) if belief.until >= now && belief.requests < BELIEVED_FOR => {
                belief.requests += 1;
                false
            }
            _ => true,
        }
    }

    /// A reply came.
    pub(super) fn replied(&self, id: &str) {
        let mut known = self.known.lock();
        let Some(at) = known.watched.iter().position(|watched| watched.id == id) else {
            return;
        };
        let Watched { address, since, .. } = known.watched.swap_remove(at);
        let now = Instant::now();
        if now.duration_since(since) <= SOON {
            let belief = Belief {
                until: now + BELIEVED,
                requests: 0,
            };
            known.soon.insert(address, belief);
        } else {
            known.soon.remove(&address);
        }
    }
}

impl Known {
    fn watch(&mut self, address: &Address, id: &str, now: Instant) {
        if self.watched.len() >= MAX_WATCHED {
            self.watched
                .retain(|watched| now.duration_since(watched.since) <= SOON);
        }
        if self.soon.len() >= MAX_KNOWN {
            self.soon.retain(|_, belief| belief.until >= now);
        }
        if self.watched.len() < MAX_WATCHED && self.soon.len() < MAX_KNOWN {
            self.watched.push(Watched {
                id: id.to_owned(),
                address: address.clone(),
                since: now,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_addresses_that_answer_soon_go_unconfirmed() {
        let routes = Routes::default();
        let (fast, slow) = (address("s.fast"), address("s.slow"));
        let ask = |address: &Address, id: &str| routes.wants_confirm(address, id, Instant::now());
        assert!(ask(&fast, "1") && ask(&slow, "2") && ask(&fast, "3"));
        // Not the one that is watched.
        routes.replied("3");
        assert!(ask(&fast, "4"));
        routes.replied("1");
        assert!(!ask(&fast, "5") && !ask(&fast, "6"));
        tokio::time::advance(SOON + Duration::from_millis(1)).await;
        assert!(ask(&fast, "7"), "5 was not answered soon");
        routes.replied("2");
        assert!(ask(&slow, "8"), "2 was not answered soon");
        routes.replied("7");
        assert!(!ask(&fast, "9"));
        routes.replied("9");
        tokio::time::advance(BELIEVED + Duration::from_millis(1)).await;
        assert!(ask(&fast, "10"), "that was long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_confirmed_from_some_number_on() {
        let routes = Routes::default();
        let fast = address("s.fast");
        let ask = |id: &str| routes.wants_confirm(&fast, id, Instant::now());
        assert!(ask("1"));
        routes.replied("1");
        assert!((0..BELIEVED_FOR).all(|number| !ask(&number.to_string())));
        assert!(ask("over"));
        routes.replied("0");
        assert!(!ask("next"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let routes = Routes::default();
        for number in 0..3 * MAX_KNOWN {
            let (address, id) = (address(&format!("s.m{number}")), number.to_string());
            assert!(routes.wants_confirm(&address, &id, Instant::now()));
            if number % 2 == 0 {
                routes.replied(&id);
            }
        }
        let known = routes.known.lock();
        assert!(known.soon.len() <= MAX_KNOWN && known.watched.len() <= MAX_WATCHED);
    }
}
