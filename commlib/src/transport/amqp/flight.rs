//! One session of a lane: hands what is to be sent to the library, and follows what becomes of it until the channel is
//! gone or the lane is closed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};

use super::fence::Fence;
use super::ledger::Ledger;
use super::properties::{EXCHANGE_OF_REPLIES, name};
use super::publisher::Lane;
use super::queue::{Job, State};
use super::row::Row;
use super::supervisor::Link;
use super::{errors, inbox};

/// Batches without confirms that the library has and has not written.
const MAX_BATCHES: usize = 1;
/// After a connection is gone the library settles everything at once; this is only in case that it does not.
const SETTLE: Duration = Duration::from_millis(300);
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

/// How far a publish came.
#[expect(clippy::large_enum_variant, reason = "the large variant is the common one")]
pub(super) enum Fate {
    /// The library did not write it.
    Unwritten(lapin::Error),
    /// The broker answered, or there is nothing to wait for.
    Answered(Confirmation),
    /// It was written and the channel ended before the answer.
    Unanswered(lapin::Error),
}

/// See the [module](self).
pub(super) struct Flight<'a> {
    pub(super) lane: &'a Lane,
    pub(super) link: Arc<Link>,
    pub(super) channel: Channel,
    pub(super) inbox: Option<inbox::Session>,
}

impl Flight<'_> {
    /// Sends until the channel is gone or the lane is closed, then tells everybody.
    pub(super) async fn run(self) -> End {
        let Flight {
            lane,
            link,
            channel,
            inbox,
        } = self;
        let _session = link.session();
        let mut blocked = link.blocked();
        let mut ledger = Ledger::new(lane);
        // The library writes in order. So without confirms only the last one of those that are handed over together
        // is waited for, and the next ones are collected meanwhile: what is written together costs the least.
        let confirmed = lane.is_confirmed();
        let mut publishes = FuturesUnordered::new();
        let mut fence = Fence::new(&channel);
        let fenced = !confirmed && lane.sink().is_some();
        let mut exchange_declared = false;
        if !confirmed {
            let reply_to = inbox.as_ref().map(|inbox| inbox.reply_to.clone());
            lane.set_row(Some(Row::new(&channel, reply_to)));
        }
        let mut is_blocked = ledger.follow(blocked.borrow_and_update().as_ref(), |_| ());
        let end = loop {
            if !confirmed
                && publishes.len() < MAX_BATCHES
                && let Some(handed) = lane.take_row()
            {
                if fenced {
                    fence.sent();
                }
                publishes.push(Either::Right(ledger.watch(handed)));
            }
            let room = if confirmed || publishes.len() < MAX_BATCHES {
                ledger.room()
            } else {
                0
            };
            if !is_blocked && room > 0 {
                let mut batch = Vec::new();
                let mut jobs = lane.take(room);
                let taken = !jobs.is_empty();
                if !exchange_declared && jobs.iter().any(Job::needs_exchange) {
                    exchange_declared = declare_exchange(&link, lane).await;
                    if !exchange_declared {
                        let before = jobs.len();
                        jobs.retain(|job| !job.needs_exchange());
                        lane.settled(before - jobs.len());
                    }
                }
                if fenced && !jobs.is_empty() {
                    fence.sent();
                }
                let mut jobs = jobs.into_iter().peekable();
                while let Some(mut job) = jobs.next() {
                    let mandatory = job.is_mandatory();
                    let body = std::mem::take(&mut job.body);
                    let mut properties = std::mem::take(&mut job.properties);
                    if let Some(inbox) = &inbox {
                        properties = properties.with_reply_to(inbox.reply_to.clone());
                    }
                    let address = (job.exchange.clone(), job.key.clone(), mandatory);
                    batch.push(ledger.insert(job.outcome, body.len()));
                    let last = confirmed || jobs.peek().is_none();
                    if last {
                        let batch = std::mem::take(&mut batch);
                        let publish = publish(&channel, address, properties, body, batch);
                        publishes.push(Either::Left(publish));
                    } else if let Some((_, fate)) =
                        publish(&channel, address, properties, body, Vec::new()).now_or_never()
                        && let Some(key) = batch.pop()
                    {
                        ledger.settle(key, fate);
                    }
                }
                if taken {
                    lane.handed_over();
                }
            }
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                () = link.dead() => break End::Lost,
                () = inbox::ended(inbox.as_ref()) => break End::Lost,
                changed = blocked.changed() => match changed {
                    Ok(()) => {
                        is_blocked = ledger.follow(blocked.borrow_and_update().as_ref(), |ledger| {
                            let handed = lane.take_row().map(|handed| ledger.watch(handed));
                            publishes.extend(handed.map(Either::Right));
                        });
                    }
                    Err(_) => break End::Lost,
                },
                Some((batch, fate)) = publishes.next(), if !publishes.is_empty() => {
                    ledger.settle_batch(batch, fate);
                    while let Some(Some((batch, fate))) = publishes.next().now_or_never() {
                        ledger.settle_batch(batch, fate);
                    }
                    ledger.acknowledge();
                    ledger.accept(publishes.is_empty());
                    if !channel.status().connected() {
                        break End::Lost;
                    }
                }
                () = tokio::task::yield_now(), if ledger.is_due() => ledger.accept(publishes.is_empty()),
                () = lane.queued(), if room > 0 && !is_blocked => if !channel.status().connected() {
                    break End::Lost;
                },
                returned = fence.returned(), if fenced => for message in returned {
                    ledger.returned(Some(message));
                },
                never = lane.expire(), if is_blocked && lane.is_replies() => match never {},
                () = lane.closing.cancelled() => break End::Closed,
            }
        };
        // What comes meanwhile waits for the next session, or is refused with the rest.
        if let Some(handed) = lane.set_row(None) {
            publishes.push(Either::Right(ledger.watch(handed)));
        }
        lane.enter(State::Down);
        let wait = async {
            while let Some((batch, fate)) = publishes.next().await {
                ledger.settle_batch(batch, fate);
            }
        };
        if end == End::Lost {
            let _ = tokio::time::timeout(SETTLE, wait).await;
        }
        if end == End::Closed && blocked.borrow().is_none() {
            // The broker may forget what comes right before the end of a connection. It answers this when it has dealt
            // with everything that was written before.
            let _ = tokio::time::timeout(CLOSE, channel.close(200, name("closed"))).await;
        }
        if let Some(inbox) = inbox {
            inbox.finish(SETTLE).await;
        }
        ledger.end(end, link.is_dead());
        end
    }
}

/// Publishes, and waits until that is written, or confirmed where the channel confirms. The first poll hands it to the
/// library, and it goes out even if the rest is not awaited.
pub(super) async fn publish(
    channel: &Channel,
    (exchange, routing_key, mandatory): (lapin::types::ShortString, lapin::types::ShortString, bool),
    properties: BasicProperties,
    body: bytes::Bytes,
    batch: Vec<usize>,
) -> (Vec<usize>, Fate) {
    let options = BasicPublishOptions {
        mandatory,
        immediate: false,
    };
    let written = channel
        .basic_publish(exchange, routing_key, options, &body, properties)
        .await;
    drop(body);
    let fate = match written {
        Err(error) => Fate::Unwritten(error),
        Ok(confirm) => confirm.await.map_or_else(Fate::Unanswered, Fate::Answered),
    };
    (batch, fate)
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
