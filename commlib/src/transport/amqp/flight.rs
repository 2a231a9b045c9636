//! One session of a lane: has what waits sent, and follows the channel until it is gone or the lane is closed.

use std::sync::Arc;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use super::properties::{EXCHANGE_OF_REPLIES, name};
use super::publisher::Lane;
use super::supervisor::Link;
use super::wire::Channel;
use super::{errors, inbox};

/// How long it may take until the end of a connection is known to be one; a millisecond is usual.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the broker may take to deal with what was written before a lane is closed; less if its node has less.
const CLOSE: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The lane was closed.
    Closed,
    /// The channel or the connection is gone.
    Lost,
}

/// See the [module](self).
pub(super) struct Flight {
    pub(super) lane: Arc<Lane>,
    pub(super) link: Arc<Link>,
    pub(super) channel: Channel,
    pub(super) inbox: Option<inbox::Session>,
}

impl Flight {
    /// Sends until the channel is gone or the lane is closed, then tells everybody.
    pub(super) async fn run(self) -> End {
        let Flight {
            lane,
            link,
            channel,
            mut inbox,
        } = self;
        let _session = link.session();
        let mut blocked = link.blocked();
        let reply_to = inbox.as_ref().map(|inbox| inbox.reply_to.clone());
        let _feedback = lane.begin(&channel, reply_to);
        let mut is_blocked = lane.follow(blocked.borrow_and_update().as_ref());
        let end = loop {
            if !is_blocked && lane.send_waiting() {
                let declared = declare_exchange(&link, &lane).await;
                lane.declared(declared);
                continue;
            }
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                () = link.dead() => break End::Lost,
                () = channel.ended().cancelled() => break End::Lost,
                () = inbox::ended(inbox.as_mut()) => break End::Lost,
                changed = blocked.changed() => match changed {
                    Ok(()) => is_blocked = lane.follow(blocked.borrow_and_update().as_ref()),
                    Err(_) => break End::Lost,
                },
                () = lane.queued(), if !is_blocked => {}
                never = lane.expire(), if is_blocked && lane.is_replies() => match never {},
                () = lane.closing.cancelled() => break End::Closed,
            }
        };
        // What comes meanwhile waits for the next session, or is refused with the rest.
        lane.pause();
        if end == End::Closed && blocked.borrow().is_none() {
            // The broker may forget what comes right before the end of a connection. It answers this when it has dealt
            // with everything that was written before.
            let _ = tokio::time::timeout(CLOSE, channel.close(200, name("closed"))).await;
        }
        if channel.wire().is_over() {
            let _ = tokio::time::timeout(SETTLE, link.dead()).await;
        }
        drop(inbox);
        lane.end(&channel, end, link.is_dead());
        end
    }
}

/// On a channel of its own, because a refusal closes it.
async fn declare_exchange(link: &Link, lane: &Lane) -> bool {
    let declare = async {
        let channel = link.channel().await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declare = channel.exchange_declare(
            name(EXCHANGE_OF_REPLIES),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        );
        errors::bounded("declaring the exchange `commlib.reply`", lane.limit, declare).await
    };
    match declare.await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "a reply is dropped");
            false
        }
    }
}
