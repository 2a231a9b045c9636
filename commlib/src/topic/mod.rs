//! Topics: publishing, subscriptions that are streams, and handlers.

mod buffer;
mod handler;
mod publisher;
mod selector;
mod subscription;

use futures_util::future::BoxFuture;

use crate::address::Template;
use crate::error::Failure;

pub use handler::{MessageContext, ServeTopics};
pub use publisher::{Publish, TopicPublisher};
pub(crate) use selector::level_of;
pub use selector::{Any, Captures, IntoSelector};
pub use subscription::{Received, RecvError, Subscribe, Subscription, TopicSubscriber};

/// What is fixed about a set of topics: the prefix and the topics.
#[derive(Debug)]
pub struct TopicsDescriptor {
    /// The levels that all topics begin with.
    pub prefix: &'static str,
    /// The topics in the order of the trait.
    pub topics: &'static [&'static TopicDescriptor],
}

/// What is fixed about a topic.
#[derive(Debug)]
pub struct TopicDescriptor {
    /// The name of the trait's method.
    pub name: &'static str,
    /// The address, with the names of captured levels in braces.
    pub template: Template,
}

/// Topic handlers behind the wire, without their types: implemented by generated code.
pub trait TopicService: Send + Sync + 'static {
    /// Prefix and topics.
    fn descriptor(&self) -> &'static TopicsDescriptor;

    /// Runs the handler of the topic of this name. `levels` are the captured ones in the order of the template.
    fn handle<'a>(
        &'a self,
        topic: &'a str,
        context: &'a MessageContext,
        levels: &'a [String],
        body: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>>;
}
