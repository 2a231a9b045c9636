//! What may happen at once between those who publish to a group of the in-process bus and its members: whatever the
//! order, a message goes to one member, and a member that waits is woken as long as there is one for it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use commlib::envelope::Envelope;
use loom::future::block_on;
use loom::thread::{self, JoinHandle};

use crate::items::GroupItems;

fn explore(scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // More than any order needs.
    model.max_branches = 10_000;
    // So often a thread is interrupted where it could go on. Without a bound there are too many orders to try.
    model.preemption_bound = Some(3);
    let orders = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&orders);
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

fn publish(items: &GroupItems, message: &str) {
    items.push(message.to_owned(), Ok(Envelope::default()));
}

/// A member that takes one message. A member that nobody wakes is found by loom: its thread never ends.
fn member(items: &Arc<GroupItems>) -> JoinHandle<String> {
    let items = Arc::clone(items);
    thread::spawn(move || block_on(items.next()).0)
}

/// Two messages come while two members look for one, or wait already.
pub fn two_members_and_two_messages() {
    explore(|| {
        let items = Arc::new(GroupItems::default());
        let members = [member(&items), member(&items)];
        publish(&items, "1");
        publish(&items, "2");
        let mut taken = members.map(|member| member.join().unwrap());
        taken.sort();
        assert_eq!(taken, ["1", "2"]);
    });
}

/// A member leaves at the moment in which it could take a message: then another one gets it.
pub fn a_member_that_leaves_and_another() {
    explore(|| {
        let items = Arc::new(GroupItems::default());
        let stays = member(&items);
        let leaves = {
            let items = Arc::clone(&items);
            thread::spawn(move || {
                let mut next = pin!(items.next());
                match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready((message, _)) => Some(message),
                    Poll::Pending => None,
                }
            })
        };
        publish(&items, "1");
        let mut taken = Vec::from_iter(leaves.join().unwrap());
        if !taken.is_empty() {
            publish(&items, "2");
        }
        taken.push(stays.join().unwrap());
        let published = ["1", "2"];
        assert_eq!(taken, published[..taken.len()]);
    });
}
