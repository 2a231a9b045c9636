//! What may happen at once between those who publish to a group of the in-process bus and its members: whatever the
//! order, a message goes to one member, and a member that waits is woken as long as there is one for it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::thread::{self, JoinHandle};

use crate::items::Items;

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

/// A member that takes one message. A member that nobody wakes is found by loom: its thread never ends.
fn member(items: &Arc<Items<u32>>) -> JoinHandle<u32> {
    let items = Arc::clone(items);
    thread::spawn(move || block_on(items.next()))
}

/// A member that takes a message if there is one, and does not wait.
fn look(items: &Items<u32>) -> Option<u32> {
    let mut next = pin!(items.next());
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => Some(message),
        Poll::Pending => None,
    }
}

/// Two messages come while two members look for one, or wait already.
pub fn two_members_and_two_messages() {
    explore(|| {
        let items = Arc::new(Items::default());
        let members = [member(&items), member(&items)];
        items.push(1);
        items.push(2);
        let mut taken = members.map(|member| member.join().unwrap());
        taken.sort();
        assert_eq!(taken, [1, 2]);
    });
}

/// A member leaves at the moment in which it could take a message: then another one gets it.
pub fn a_member_that_leaves_and_another() {
    explore(|| {
        let items = Arc::new(Items::default());
        let stays = member(&items);
        let leaves = {
            let items = Arc::clone(&items);
            thread::spawn(move || look(&items))
        };
        items.push(1);
        let mut taken = Vec::from_iter(leaves.join().unwrap());
        if !taken.is_empty() {
            items.push(2);
        }
        taken.push(stays.join().unwrap());
        let published = [1, 2];
        assert_eq!(taken, published[..taken.len()]);
    });
}

/// A member gives back what it took while another message comes: nobody waits for nothing.
pub fn a_message_that_comes_back() {
    explore(|| {
        let items = Arc::new(Items::default());
        items.push(1);
        let gives_back = {
            let items = Arc::clone(&items);
            thread::spawn(move || {
                if let Some(message) = look(&items) {
                    items.push_first(message);
                }
            })
        };
        let members = [member(&items), member(&items)];
        items.push_within(2, 2);
        gives_back.join().unwrap();
        let mut taken = members.map(|member| member.join().unwrap());
        taken.sort();
        assert_eq!(taken, [1, 2]);
    });
}
