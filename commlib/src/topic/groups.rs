//! Removing groups of durable topics from the broker.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::subscription::{Subscribe, check_group};
use crate::error::{Execution, NodeError, Status, StatusCode};
use crate::transport::Removal;

impl<M, C> Subscribe<M, C> {
    /// Removes a group of this durable topic from the broker, in place of subscribing, with all messages that wait for it.
    /// Without it a group that nobody joins any more gets messages for ever, up to the limits of the broker.
    ///
    /// The topic and its levels have to be those that the members joined with: handlers
    /// ([`ServeTopics::group`](super::ServeTopics::group)) join each topic of their trait with `Any` for every level. It
    /// resolves to `false` if there is no such group, so that it can be done again. If a member joins later, it makes a new
    /// group, which begins with what is published from then on. Dead letters stay, since groups of one name share them
    /// over all topics; see [`DeadLetters::discard`](super::DeadLetters::discard). They can't be sent again to a group that
    /// is gone.
    ///
    /// ```
    /// use commlib::prelude::*;
    ///
    /// #[commlib::topic(prefix = "orders")]
    /// pub trait Orders {
    ///     #[topic("placed.{shop}", durable)]
    ///     async fn placed(&self, shop: String, order: u64);
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = Node::connect("memory://groups").await?;
    /// let was_there = OrdersSubscriber::new(&node).placed(Any).remove_group("clerks").await?;
    /// # assert!(!was_there);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NodeError::GroupInUse`] while the group has members; on Redis also for up to 10 s
    /// ([`Limits::claim_after`](crate::Limits::claim_after)) after the last one ended, if that gave messages back or was
    /// killed. [`NodeError::Status`] with `invalid_argument` if the topic is not durable, and when
    /// the broker refuses or does not answer within
    /// [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout).
    pub async fn remove_group(self, name: impl Into<String>) -> Result<bool, NodeError> {
        let (node, group) = (self.node, name.into());
        node.check_open()?;
        check_group(&group)?;
        let pattern = self.pattern?;
        let Some(topic) = self.topic.filter(|topic| topic.durable) else {
            let text = format!("`{pattern}` is no durable topic: the broker keeps no groups of it");
            return Err(Status::new(StatusCode::InvalidArgument, text)
                .with_execution(Execution::DidNotRun)
                .into());
        };
        topic.check_dialect(&node)?;
        let pattern = node.qualify_pattern(&pattern)?;
        let topic = node.qualify_pattern(&topic.any_level()?)?;
        let deadline = Instant::now() + node.config().operation_timeout;
        let removal = node
            .when_connected(deadline, || {
                let transport = Arc::clone(node.transport());
                let (topic, group, pattern) = (topic.clone(), group.clone(), pattern.clone());
                async move { transport.remove_group(&topic, &group, &pattern).await }.boxed()
            })
            .await?;
        match removal {
            Removal::Removed => Ok(true),
            Removal::NotThere => Ok(false),
            Removal::InUse => Err(NodeError::GroupInUse {
                transport: node.transport().name(),
                group,
                pattern: pattern.to_string(),
            }),
        }
    }
}
