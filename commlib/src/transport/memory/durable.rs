//! Durable topics and methods on the in-process bus: the queues of groups, which stay while nobody takes from them, and
//! the dead letters. All of it is gone when the last node of the bus is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::bus::Bus;
use super::items::Items;
use super::queue::Requester;
use super::topics::{Subscriber, place};
use crate::address::{Address, Pattern};
use crate::envelope::Envelope;
use crate::error::StatusCode;
use crate::limits::too_large;
use crate::transport::durable::{now_micros, refusal};
use crate::transport::{
    Accepted, DeadLetter, Disposal, Durability, Removal, Settle, TopicMessage, Tracked, TransportError,
    TransportErrorKind,
};

/// Messages that a group, or a method, has not settled; more are refused. Limits may be lower for groups.
const QUEUE_LIMIT: usize = 10_000;
/// Dead letters of a group; the oldest go. Limits may be lower.
const LETTER_LIMIT: usize = 10_000;

/// What a bus keeps for durable topics.
#[derive(Default)]
pub(super) struct Kept {
    /// By the name of the group and its pattern.
    groups: HashMap<(String, String), Arc<Queue>>,
    /// Of durable methods, by address.
    requests: HashMap<String, Arc<Queue>>,
    letters: HashMap<String, VecDeque<Letter>>,
    next_letter: u64,
}

/// The queue of a group.
pub(super) struct Queue {
    pattern: Pattern,
    /// The most that are not settled.
    limit: usize,
    items: Items<Item>,
    /// Messages that are not settled: in the queue, with a member, or resting.
    unsettled: AtomicUsize,
    members: AtomicUsize,
}

/// A member of a group, until it is dropped.
pub(super) struct Joined(Arc<Queue>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.members.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Item {
    address: String,
    message: Envelope,
    /// Who waits for the answer to a request.
    requester: Option<Requester>,
    deliveries: u32,
}

/// Where the dead letters of a group go.
pub(super) struct Dead {
    /// Names them.
    pub(super) group: String,
    /// The oldest go when there are more.
    pub(super) most: u32,
}

struct Letter {
    id: u64,
    queue: Arc<Queue>,
    item: Item,
    reason: String,
    died: u64,
}

impl Queue {
    fn new(pattern: &Pattern, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            pattern: pattern.clone(),
            limit,
            items: Items::default(),
            unsettled: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
        })
    }

    pub(super) fn join(queue: &Arc<Self>) -> Joined {
        queue.members.fetch_add(1, Ordering::AcqRel);
        Joined(Arc::clone(queue))
    }
}

impl Bus {
    /// Publishes to the groups of a durable topic and to whoever listens.
    pub(super) fn publish_durable(
        &self,
        address: &str,
        message: Envelope,
    ) -> Result<Accepted, TransportError> {
        let kept = self.kept.lock();
        let groups: Vec<_> = kept
            .groups
            .values()
            .filter(|queue| queue.pattern.matches(address))
            .collect();
        if let Some(full) = groups
            .iter()
            .find(|queue| queue.unsettled.load(Ordering::Relaxed) >= queue.limit)
        {
            let limit = full.limit;
            return Err(TransportError::did_not_run(
                TransportErrorKind::QueueFull,
                format!("{limit} messages wait for a group that listens to `{address}` already"),
            ));
        }
        for queue in &groups {
            queue.unsettled.fetch_add(1, Ordering::Relaxed);
            queue.items.push(Item {
                address: address.to_owned(),
                message: message.clone(),
                requester: None,
                deliveries: 0,
            });
        }
        let count = groups.len() as u64;
        drop(groups);
        drop(kept);
        Ok(Accepted {
            durability: if count > 0 {
                Durability::Process
            } else {
                Durability::None
            },
            receivers: Some(self.topics.broadcast(&self.topics.audience(address), Ok(message)) + count),
            ..Accepted::default()
        })
    }

    /// Joins a group, whose queue is made when its first member does, for so many messages at most.
    pub(super) fn join_group(&self, group: &str, pattern: &Pattern, backlog: u32) -> Joined {
        let limit = QUEUE_LIMIT.min(backlog as usize);
        let key = (group.to_owned(), pattern.as_str().to_owned());
        let mut kept = self.kept.lock();
        let queue = kept
            .groups
            .entry(key)
            .or_insert_with(|| Queue::new(pattern, limit));
        Queue::join(queue)
    }

    /// Removes a group that has no members.
    pub(super) fn remove_group(&self, group: &str, pattern: &Pattern) -> Removal {
        let key = (group.to_owned(), pattern.as_str().to_owned());
        let mut kept = self.kept.lock();
        match kept.groups.get(&key) {
            None => Removal::NotThere,
            Some(queue) if queue.members.load(Ordering::Acquire) > 0 => Removal::InUse,
            Some(_) => {
                kept.groups.remove(&key);
                Removal::Removed
            }
        }
    }

    /// The queue of a durable method, made with its first request or server.
    pub(super) fn request_queue(&self, method: &Pattern) -> Arc<Queue> {
        let mut kept = self.kept.lock();
        let queue = kept
            .requests
            .entry(method.as_str().to_owned())
            .or_insert_with(|| Queue::new(method, QUEUE_LIMIT));
        Arc::clone(queue)
    }

    /// Keeps a request for the servers of its method.
    pub(super) fn keep_request(
        &self,
        address: &Address,
        message: Envelope,
        requester: Option<Requester>,
    ) -> Result<Accepted, TransportError> {
        let queue = self.request_queue(&Pattern::from(address.clone()));
        if queue.unsettled.fetch_add(1, Ordering::Relaxed) >= QUEUE_LIMIT {
            queue.unsettled.fetch_sub(1, Ordering::Relaxed);
            return Err(TransportError::did_not_run(
                TransportErrorKind::QueueFull,
                format!("{QUEUE_LIMIT} requests wait for the servers of `{address}` already"),
            ));
        }
        queue.items.push(Item {
            address: address.to_string(),
            message,
            requester,
            deliveries: 0,
        });
        Ok(Accepted {
            durability: Durability::Process,
            ..Accepted::default()
        })
    }

    fn bury(&self, queue: Arc<Queue>, item: Item, dead: &Dead, reason: String) {
        queue.unsettled.fetch_sub(1, Ordering::Relaxed);
        let mut kept = self.kept.lock();
        kept.next_letter += 1;
        let id = kept.next_letter;
        let letters = kept.letters.entry(dead.group.clone()).or_default();
        while letters.len() >= LETTER_LIMIT.min(dead.most as usize) {
            letters.pop_front();
        }
        letters.push_back(Letter {
            id,
            queue,
            item,
            reason,
            died: now_micros(),
        });
    }

    pub(super) fn dead_letters(&self, group: &str, limit: usize) -> Vec<DeadLetter> {
        let kept = self.kept.lock();
        let letters = kept.letters.get(group).into_iter().flatten();
        letters.take(limit).map(Letter::describe).collect()
    }

    /// Whether there was one of this id.
    pub(super) fn dispose(&self, group: &str, id: &str, disposal: Disposal) -> bool {
        let mut kept = self.kept.lock();
        let Some(letters) = kept.letters.get_mut(group) else {
            return false;
        };
        let place = letters.iter().position(|letter| letter.id.to_string() == id);
        let Some(letter) = place.and_then(|place| letters.remove(place)) else {
            return false;
        };
        drop(kept);
        if disposal == Disposal::Resend {
            letter.queue.unsettled.fetch_add(1, Ordering::Relaxed);
            letter.queue.items.push(Item {
                deliveries: 0,
                ..letter.item
            });
        }
        true
    }
}

impl Letter {
    fn describe(&self) -> DeadLetter {
        DeadLetter {
            id: self.id.to_string(),
            topic: self.item.address.clone(),
            reason: self.reason.clone(),
            attempts: self.item.deliveries,
            body: self.item.message.data.clone(),
            content_type: self.item.message.meta.content_type.clone(),
            content_encoding: self.item.message.meta.content_encoding.clone(),
            headers: self.item.message.meta.headers.clone(),
            timestamp: self.item.message.meta.timestamp,
            died: Some(self.died),
        }
    }
}

/// Takes messages for one member until it is stopped. It ends between messages only: nothing taken is lost.
pub(super) async fn take_part(
    bus: Arc<Bus>,
    member: Arc<Subscriber>,
    permits: Arc<Semaphore>,
    joined: Joined,
    dead: Arc<Dead>,
    stop: CancellationToken,
) {
    let queue = &joined.0;
    while let Some(permit) = place(&permits, &stop).await {
        let Some(mut item) = stop.run_until_cancelled(queue.items.next()).await else {
            return;
        };
        item.deliveries = item.deliveries.saturating_add(1);
        let (address, attempt) = (item.address.clone(), item.deliveries);
        let message = item.message.clone();
        let wants_answer = item.requester.is_some();
        let mut settle = Box::new(Unsettled {
            bus: Arc::clone(&bus),
            queue: Arc::clone(queue),
            dead: Arc::clone(&dead),
            item: Some(item),
            answer: None,
        });
        if message.data.len() > member.max_body {
            let reason = too_large("it", message.data.len(), member.max_body);
            member.sink.dropped(&reason);
            settle.answer(refusal(StatusCode::ResourceExhausted, &reason));
            settle.dead(reason);
            continue;
        }
        member.sink.message(TopicMessage {
            address,
            message,
            permit: Some(permit),
            tracked: Some(Tracked {
                attempt,
                wants_answer,
                settle,
            }),
        });
    }
}

/// See [`Settle`].
struct Unsettled {
    bus: Arc<Bus>,
    queue: Arc<Queue>,
    dead: Arc<Dead>,
    item: Option<Item>,
    answer: Option<Envelope>,
}

impl Unsettled {
    /// Takes the message out, with its answer sent.
    fn answered(&mut self) -> Option<Item> {
        let mut item = self.item.take()?;
        if let (Some(requester), Some(answer), Some(id)) =
            (item.requester.take(), self.answer.take(), &item.message.meta.id)
        {
            requester.reply(id, answer);
        }
        Some(item)
    }
}

impl Settle for Unsettled {
    fn answer(&mut self, answer: Envelope) {
        self.answer = Some(answer);
    }

    fn handled(mut self: Box<Self>) {
        self.answered();
        self.queue.unsettled.fetch_sub(1, Ordering::Relaxed);
    }

    fn again(mut self: Box<Self>, after: Duration) {
        let queue = Arc::clone(&self.queue);
        if let Some(item) = self.item.take() {
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                queue.items.push(item);
            });
        }
    }

    fn dead(mut self: Box<Self>, reason: String) {
        if let Some(item) = self.answered() {
            let queue = Arc::clone(&self.queue);
            self.bus.bury(queue, item, &self.dead, reason);
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.queue.items.push_first(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::transport::TopicSink;

    /// Is stopped while it is handed a message, which it gives back.
    #[derive(Default)]
    struct Leaving {
        stop: CancellationToken,
        attempts: AtomicU32,
    }

    impl TopicSink for Leaving {
        fn message(&self, message: TopicMessage) {
            let attempt = message.tracked.as_ref().map_or(0, |tracked| tracked.attempt);
            self.attempts.fetch_add(attempt, Ordering::Relaxed);
            self.stop.cancel();
        }

        fn gap(&self) {}

        fn dropped(&self, _: &str) {}
    }

    #[tokio::test]
    async fn a_member_that_leaves_is_not_handed_again_what_it_gave_back() {
        let (bus, pattern) = (Arc::new(Bus::default()), Pattern::new("a.b").unwrap());
        drop(bus.join_group("group", &pattern, 1));
        bus.publish_durable("a.b", Envelope::default()).unwrap();
        for attempt in 1..=2 {
            let sink = Arc::new(Leaving::default());
            let member = Subscriber {
                id: 1,
                pattern: pattern.clone(),
                max_body: 1,
                sink: Arc::clone(&sink) as Arc<dyn TopicSink>,
            };
            let joined = bus.join_group("group", &pattern, 1);
            let permits = Arc::new(Semaphore::new(1));
            let stop = sink.stop.clone();
            take_part(
                Arc::clone(&bus),
                Arc::new(member),
                permits,
                joined,
                Arc::new(Dead {
                    group: String::new(),
                    most: 1,
                }),
                stop,
            )
            .await;
            assert_eq!(sink.attempts.load(Ordering::Relaxed), attempt);
        }
    }
}
