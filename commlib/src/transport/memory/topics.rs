//! The topics of a bus: who listens to what, alone or in groups.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::address::Pattern;
use crate::envelope::{Envelope, Malformed};
use crate::transport::{TopicMessage, TopicSink};

/// How many messages a group keeps while its members are busy.
const LIMIT: usize = 10_000;

/// A list that is read with each message and seldom changed.
type Subscribers = Arc<[Arc<Subscriber>]>;

/// A message, or why it is none.
type Decoded = Result<Envelope, Malformed>;

/// Who got a message.
pub(super) struct Broadcast {
    /// How many subscriptions and groups.
    pub(super) receivers: u64,
    /// Whether a reader should be let catch up.
    is_behind: bool,
}

impl Broadcast {
    /// Lets readers that are behind run, once: nobody waits for those that stand still.
    pub(super) async fn pace(&self) {
        if self.is_behind {
            tokio::task::yield_now().await;
        }
    }
}

/// Who listens.
#[derive(Default)]
pub(super) struct Topics {
    listeners: RwLock<Listeners>,
}

#[derive(Default)]
struct Listeners {
    /// Those that listen to one address.
    by_address: HashMap<String, Subscribers>,
    /// Those whose pattern has wildcards.
    wild: Subscribers,
    groups: HashMap<(String, String), Group>,
}

/// A subscription.
pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) pattern: Pattern,
    pub(super) max_body: usize,
    pub(super) sink: Arc<dyn TopicSink>,
}

struct Group {
    pattern: Pattern,
    members: Vec<Arc<Subscriber>>,
    items: Arc<GroupItems>,
}

/// The messages of a group that no member has taken yet.
#[derive(Default)]
pub(super) struct GroupItems {
    queue: Mutex<VecDeque<(String, Decoded)>>,
    arrived: Notify,
}

impl GroupItems {
    async fn next(&self) -> (String, Decoded) {
        loop {
            if let Some(item) = self.queue.lock().pop_front() {
                return item;
            }
            // A notification without a waiter is kept, so none is missed between the look and the wait.
            self.arrived.notified().await;
        }
    }
}

impl Topics {
    pub(super) fn subscribe(&self, subscriber: Arc<Subscriber>) {
        let mut listeners = self.listeners.write();
        let list = if subscriber.pattern.is_literal() {
            listeners
                .by_address
                .entry(subscriber.pattern.as_str().to_owned())
                .or_default()
        } else {
            &mut listeners.wild
        };
        *list = list.iter().cloned().chain([subscriber]).collect();
    }

    /// Makes a subscriber a member of a group; where its messages are.
    pub(super) fn join(&self, group: String, subscriber: Arc<Subscriber>) -> Arc<GroupItems> {
        let key = (group, subscriber.pattern.as_str().to_owned());
        let mut listeners = self.listeners.write();
        let group = listeners.groups.entry(key).or_insert_with(|| Group {
            pattern: subscriber.pattern.clone(),
            members: Vec::new(),
            items: Arc::default(),
        });
        group.members.push(subscriber);
        Arc::clone(&group.items)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut listeners = self.listeners.write();
        let without = |list: &mut Subscribers| {
            if list.iter().any(|subscriber| subscriber.id == id) {
                *list = list
                    .iter()
                    .filter(|subscriber| subscriber.id != id)
                    .cloned()
                    .collect();
            }
        };
        without(&mut listeners.wild);
        listeners.by_address.retain(|_, list| {
            without(list);
            !list.is_empty()
        });
        listeners.groups.retain(|_, group| {
            group.members.retain(|member| member.id != id);
            !group.members.is_empty()
        });
    }

    /// Gives a message to all that listen.
    pub(super) fn broadcast(&self, address: &str, message: Decoded) -> Broadcast {
        let listeners = self.listeners.read();
        let literal = listeners.by_address.get(address).cloned().unwrap_or_default();
        let wild = Arc::clone(&listeners.wild);
        let mut receivers = 0;
        let mut is_behind = false;
        for group in listeners
            .groups
            .values()
            .filter(|group| group.pattern.matches(address))
        {
            receivers += 1;
            group.push(address, &message);
        }
        drop(listeners);
        let matching = wild
            .iter()
            .filter(|subscriber| subscriber.pattern.matches(address));
        let mut last: Option<&Arc<Subscriber>> = None;
        for subscriber in literal.iter().chain(matching) {
            receivers += 1;
            is_behind |= subscriber.sink.is_behind();
            if let Some(before) = last.replace(subscriber) {
                before.deliver(address, message.clone(), None);
            }
        }
        if let Some(last) = last {
            last.deliver(address, message, None);
        }
        Broadcast { receivers, is_behind }
    }
}

impl Group {
    fn push(&self, address: &str, message: &Decoded) {
        let mut queue = self.items.queue.lock();
        if queue.len() >= LIMIT {
            queue.pop_front();
            self.members
                .iter()
                .for_each(|member| member.sink.dropped("the group's queue is full"));
        }
        queue.push_back((address.to_owned(), message.clone()));
        drop(queue);
        self.items.arrived.notify_one();
    }
}

impl Subscriber {
    fn deliver(&self, address: &str, message: Decoded, permit: Option<OwnedSemaphorePermit>) {
        match message {
            Ok(message) if message.data.len() > self.max_body => {
                self.sink.dropped("the message is over the size limit");
            }
            Ok(message) => self.sink.message(TopicMessage {
                address: address.to_owned(),
                message,
                permit,
                tracked: None,
            }),
            Err(error) => self.sink.dropped(&error.reason),
        }
    }
}

/// Takes messages of a group for one member. It ends between messages only: nothing taken is lost.
pub(super) async fn take_part(member: Arc<Subscriber>, permits: Arc<Semaphore>, items: Arc<GroupItems>) {
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (address, message) = items.next().await;
        member.deliver(&address, message, Some(permit));
    }
}
