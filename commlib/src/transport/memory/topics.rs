//! The topics of a bus: who listens to what, alone or in groups.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::items::Items;
use crate::address::Pattern;
use crate::envelope::{Envelope, Malformed};
use crate::transport::{TopicMessage, TopicSink};

/// How many messages a group keeps while its members are busy.
const GROUP_LIMIT: usize = 10_000;

/// A message, or why it is none.
pub(super) type Decoded = Result<Envelope, Malformed>;

/// What waits for the members of a group, each with its address.
pub(super) type GroupItems = Items<(String, Decoded)>;

/// A list that is read with each message and seldom changed.
type Subscribers = Arc<[Arc<Subscriber>]>;

/// Who listens to an address.
pub(super) struct Audience<'a> {
    address: &'a str,
    literal: Option<Subscribers>,
    /// With others among them.
    wild: Subscribers,
    has_groups: bool,
}

impl Audience<'_> {
    /// The subscriptions outside groups.
    fn subscribers(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        let wild = self.wild.iter();
        let matching = wild.filter(|subscriber| subscriber.pattern.matches(self.address));
        self.literal.iter().flat_map(|list| list.iter()).chain(matching)
    }

    fn behind(&self) -> impl Iterator<Item = &dyn TopicSink> {
        self.subscribers()
            .map(|subscriber| &*subscriber.sink)
            .filter(|sink| sink.is_behind())
    }

    /// Whether a reader should be let catch up first.
    pub(super) fn is_behind(&self) -> bool {
        self.behind().next().is_some()
    }

    /// Lets readers that are behind catch up, all in the time that each has.
    pub(super) async fn catch_up(&self) {
        futures_util::future::join_all(self.behind().map(TopicSink::catch_up)).await;
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

    /// Those who listen to an address now.
    pub(super) fn audience<'a>(&self, address: &'a str) -> Audience<'a> {
        let listeners = self.listeners.read();
        Audience {
            address,
            literal: listeners.by_address.get(address).cloned(),
            wild: Arc::clone(&listeners.wild),
            has_groups: !listeners.groups.is_empty(),
        }
    }

    /// Gives a message to all that listen. Returns how many subscriptions and groups they are.
    pub(super) fn broadcast(&self, audience: &Audience<'_>, message: Decoded) -> u64 {
        let mut receivers = 0;
        if audience.has_groups {
            let listeners = self.listeners.read();
            let groups = listeners.groups.values();
            for group in groups.filter(|group| group.pattern.matches(audience.address)) {
                receivers += 1;
                group.push(audience.address, &message);
            }
        }
        let mut last: Option<&Arc<Subscriber>> = None;
        for subscriber in audience.subscribers() {
            receivers += 1;
            if let Some(before) = last.replace(subscriber) {
                before.deliver(audience.address, message.clone(), None);
            }
        }
        if let Some(last) = last {
            last.deliver(audience.address, message, None);
        }
        receivers
    }
}

impl Group {
    fn push(&self, address: &str, message: &Decoded) {
        let item = (address.to_owned(), message.clone());
        if self.items.push_within(GROUP_LIMIT, item) {
            self.members
                .iter()
                .for_each(|member| member.sink.dropped("the group's queue is full"));
        }
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

/// Takes messages of a group for one member until it is stopped. It ends between messages only: nothing taken is lost.
pub(super) async fn take_part(
    member: Arc<Subscriber>,
    permits: Arc<Semaphore>,
    items: Arc<GroupItems>,
    stop: CancellationToken,
) {
    while let Some(permit) = place(&permits, &stop).await {
        let Some((address, message)) = stop.run_until_cancelled(items.next()).await else {
            return;
        };
        member.deliver(&address, message, Some(permit));
    }
}

/// A place for the next message, unless the member is stopped or its handler is going away.
pub(super) async fn place(
    permits: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    let permit = Arc::clone(permits).acquire_owned();
    stop.run_until_cancelled(permit).await?.ok()
}
