//! Dead letters: what groups of durable topics gave up, to look at and to send again.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::subscription::below_namespace;
use crate::error::NodeError;
use crate::node::Node;
use crate::transport::{DeadLetter, Disposal};

impl Node {
    /// The dead letters of a group of durable topics, in this node's namespace: messages that the group gave up.
    ///
    /// The broker keeps the latest 10,000 of each group ([`Limits::dead_letters`](crate::Limits::dead_letters)). They may
    /// hold whatever the messages did, secrets included.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = commlib::Node::connect("memory://letters").await?;
    /// let letters = node.dead_letters("loggers");
    /// for letter in letters.list(100).await? {
    ///     println!("{} after {} attempts: {}", letter.topic, letter.attempts, letter.reason);
    ///     letters.resend(&letter.id).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn dead_letters(&self, group: impl Into<String>) -> DeadLetters {
        DeadLetters {
            node: self.clone(),
            group: group.into(),
        }
    }
}

/// The dead letters of one group.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    node: Node,
    group: String,
}

impl DeadLetters {
    /// The oldest ones, at most `limit`. They stay where they are. On RabbitMQ two listings at the same time hide
    /// letters from each other.
    ///
    /// # Errors
    /// [`NodeError`] when the group's name is none, or the broker refuses or does not answer in time.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, NodeError> {
        let group = self.group()?;
        let mut letters = self
            .node
            .when_connected(self.deadline(), || {
                let (transport, group) = (Arc::clone(self.node.transport()), group.clone());
                async move { transport.dead_letters(&group, limit).await }.boxed()
            })
            .await?;
        let config = self.node.config();
        for letter in &mut letters {
            if let Ok(Some(_)) = config.unpack(&mut letter.body, letter.content_encoding.clone()) {
                letter.content_encoding = None;
            }
        }
        if let Some(namespace) = &config.namespace {
            for letter in &mut letters {
                if let Some(topic) = namespace.strip(&letter.topic) {
                    letter.topic = topic.to_owned();
                }
            }
        }
        Ok(letters)
    }

    /// Gives one to its group again, and to no other, as if it had never been delivered. `false` if there is none of
    /// this id.
    ///
    /// # Errors
    /// As [`list`](Self::list). After an error with [`Execution::MayHaveRun`](crate::Execution::MayHaveRun) it may be
    /// with its group and among the dead letters.
    pub async fn resend(&self, id: &str) -> Result<bool, NodeError> {
        self.dispose(id, Disposal::Resend).await
    }

    /// Deletes one. `false` if there is none of this id.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn discard(&self, id: &str) -> Result<bool, NodeError> {
        self.dispose(id, Disposal::Discard).await
    }

    async fn dispose(&self, id: &str, disposal: Disposal) -> Result<bool, NodeError> {
        let group = self.group()?;
        let disposed = self
            .node
            .when_connected(self.deadline(), || {
                let (transport, group) = (Arc::clone(self.node.transport()), group.clone());
                let id = id.to_owned();
                async move { transport.dispose(&group, &id, disposal).await }.boxed()
            })
            .await?;
        Ok(disposed)
    }

    fn group(&self) -> Result<String, NodeError> {
        self.node.check_open()?;
        below_namespace(&self.node, &self.group)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.node.config().operation_timeout
    }
}
