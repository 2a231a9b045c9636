//! Topics: publishing, subscriptions that are streams, and handlers.

mod buffer;
mod dead_letters;
mod groups;
mod handler;
mod publisher;
mod selector;
mod subscription;

use futures_util::future::BoxFuture;

use crate::address::{Pattern, Template};
use crate::envelope::Dialect;
use crate::error::{Execution, Failure, NodeError, Status, StatusCode};
use crate::node::Node;
use crate::transport::PublishOptions;

pub use dead_letters::DeadLetters;
pub use handler::{MessageContext, ServeTopics};
pub use publisher::{Publish, PublishFuture, TopicPublisher};
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
    /// Whether its messages are kept for groups that are away.
    pub durable: bool,
}

impl TopicDescriptor {
    /// The pattern of the topic with every capture open.
    fn any_level(&self) -> Result<Pattern, NodeError> {
        if let Some(address) = self.template.literal() {
            return Ok(address.into());
        }
        let open: Vec<Option<&str>> = self.template.captures().map(|_| None).collect();
        self.template.pattern(&open).map_err(|error| NodeError::Address {
            text: self.template.to_string(),
            reason: error.to_string(),
        })
    }

    /// How its messages are published on this node.
    fn options(&self, node: &Node) -> Result<PublishOptions, NodeError> {
        if !self.durable {
            return Ok(PublishOptions::default());
        }
        self.check_dialect(node)?;
        Ok(PublishOptions::durable(node.qualify_pattern(&self.any_level()?)?))
    }

    fn check_dialect(&self, node: &Node) -> Result<(), NodeError> {
        if !self.durable || node.config().dialect == Dialect::Native {
            return Ok(());
        }
        let text = format!(
            "the topic `{}` is durable, for which the dialect commlib-py has no form; leave out `durable`, or connect without the dialect",
            self.template
        );
        Err(Status::new(StatusCode::Unimplemented, text)
            .with_execution(Execution::DidNotRun)
            .into())
    }
}

/// Topic handlers behind the wire, without their types: implemented by generated code.
pub trait TopicService: Send + Sync + 'static {
    /// Prefix and topics.
    fn descriptor(&self) -> &'static TopicsDescriptor;

    /// Runs the handler of the topic of this name; the body is in the codec of the context. `levels` are the captured ones in the order of the template.
    fn handle<'a>(
        &'a self,
        topic: &'a str,
        context: &'a MessageContext,
        levels: &'a [String],
        body: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>>;
}
