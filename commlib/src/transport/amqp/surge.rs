//! Takes more at once while what comes is too old to run, where a server [limits](ConsumeSpec::max_wait) that.
//!
//! A consumer is sent no more requests than it may run at once. While handlers run, hardly any of these places is free,
//! and a flood passes through them more slowly than it comes: then all that is left in the queue is too old, and is
//! still to be refused. So with the first request that is too old a second consumer is started, whose requests need no
//! place as long as they are too old. It is cancelled when none was for a while: what it took and what may run waits
//! here, where no other server can get it.

use std::time::Duration;

use lapin::options::{BasicCancelOptions, BasicQosOptions};
use lapin::types::ShortString;
use tokio::time::Instant;

use super::arrival::is_older;
use super::consumer::{Session, Task, items};
use super::errors::bounded;
use super::properties::short;
use super::wire::Message;
use crate::transport::TransportError;

/// How many requests a second consumer is sent at once.
const MOST: usize = 256;
const FEWEST: usize = 8;
/// Their bodies, in bytes, about.
const BYTES: usize = 16 * 1024 * 1024;
/// A surge is over when no request was too old for this long.
const CALM: Duration = Duration::from_secs(1);

/// The second consumers of a channel.
pub(super) struct Surge {
    limit: Option<Duration>,
    /// By queue.
    tags: Vec<(usize, ShortString)>,
    until: Option<Instant>,
}

impl Surge {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            tags: Vec::new(),
            until: None,
        }
    }

    /// When it is over, if there is one.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// Resolves when a surge is over; never without one.
pub(super) async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl Task {
    /// Whether a request is too old, so that it will be refused. Begins and ends surges. After an error the channel has
    /// to be made anew: it may have been sent requests that nobody sees.
    pub(super) async fn refuses(
        &self,
        session: &mut Session,
        index: usize,
        message: &Message,
    ) -> Result<bool, TransportError> {
        let Some(limit) = session.surge.limit else {
            return Ok(false);
        };
        let now = Instant::now();
        let old = is_older(&message.properties, limit, message.came);
        if old {
            if session.surge.tags.iter().all(|(queue, _)| *queue != index) {
                self.begin_surge(session, index, message.size).await?;
            }
            session.surge.until = Some(Instant::now() + CALM);
        } else if session.surge.until.is_some_and(|until| until <= now) {
            self.end_surge(session).await;
        }
        Ok(old)
    }

    async fn begin_surge(
        &self,
        session: &mut Session,
        index: usize,
        size: usize,
    ) -> Result<(), TransportError> {
        let Some(address) = self.spec.addresses.get(index) else {
            return Ok(());
        };
        let limit = self.core.options.operation_timeout;
        let channel = session.acks.channel();
        let many = (BYTES / size.max(1)).clamp(FEWEST, MOST);
        let more = u16::try_from(many).unwrap_or(u16::MAX);
        // It counts for the consumers that are started after it.
        let what = "taking more at once";
        bounded(what, limit, channel.basic_qos(more, BasicQosOptions::default())).await?;
        let queue = short("address", address.as_str())?;
        let incoming = channel.incoming(self.consumed(&queue, false)).await?;
        session.surge.tags.push((index, incoming.tag()));
        session.surge.until = Some(Instant::now() + CALM);
        // It was cancelled, or the queue is gone, which its first consumer learns as well.
        session.queues.push(items(index, incoming, false));
        bounded(
            what,
            limit,
            channel.basic_qos(self.prefetch(), BasicQosOptions::default()),
        )
        .await?;
        if let Some(count) = &mut session.count {
            count.suspend(true);
        }
        tracing::debug!(service = %self.spec.service, queue = %address, "requests are too old to run; taking more at once");
        Ok(())
    }

    /// Cancels the second consumers. What they took is still to come.
    pub(super) async fn end_surge(&self, session: &mut Session) {
        if session.surge.until.take().is_none() {
            return;
        }
        let mut tags = std::mem::take(&mut session.surge.tags);
        let channel = session.acks.channel();
        let cancel = async {
            while let Some((_, tag)) = tags.last() {
                let options = BasicCancelOptions::default();
                channel.basic_cancel(tag.clone(), options).await?;
                tags.pop();
            }
            Ok(())
        };
        let limit = self.core.options.operation_timeout;
        if let Err(error) = bounded("taking less at once", limit, cancel).await {
            tracing::debug!(service = %self.spec.service, %error, "cannot take less at once");
        }
        // What is left is cancelled with the first consumers.
        session.tags.extend(tags.into_iter().map(|(_, tag)| tag));
        if let Some(count) = &mut session.count {
            count.suspend(false);
        }
    }
}
