//! Answers requests on the bus.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::super::Responder;
use super::bus::{Bus, Item};
use crate::address::Address;
use crate::envelope::{Dialect, Envelope, commlib_py, native};

/// Where and how a request is answered.
#[derive(Default)]
pub(super) struct ReplyRoute {
    pub(super) reply_to: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) dialect: Dialect,
}

impl ReplyRoute {
    /// Forgets an address that is not of the form that requesters own, and says false.
    pub(super) fn check(&mut self, address: &str) -> bool {
        if self
            .reply_to
            .as_deref()
            .is_some_and(|reply_to| !is_reply_address(reply_to))
        {
            tracing::warn!(
                address,
                "a request names a reply address that is none; it will not be answered"
            );
            self.reply_to = None;
            return false;
        }
        true
    }
}

fn is_reply_address(reply_to: &str) -> bool {
    let token = |text: &str, len, legal: fn(u8) -> bool| text.len() == len && text.bytes().all(legal);
    match (
        reply_to.strip_prefix("commlib:reply:"),
        reply_to.strip_prefix("rpc-"),
    ) {
        (Some(id), _) => token(id, 24, |byte| {
            byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
        }),
        (_, Some(id)) => token(id, 32, |byte| {
            byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
        }),
        (None, None) => false,
    }
}

pub(super) struct MemoryResponder {
    pub(super) bus: Arc<Bus>,
    pub(super) addresses: Arc<[Address]>,
    pub(super) index: usize,
    pub(super) item: Option<Item>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) reply: ReplyRoute,
}

impl Responder for MemoryResponder {
    fn wants_reply(&self) -> bool {
        self.reply.reply_to.is_some()
    }

    fn reply(self: Box<Self>, mut reply: Envelope) {
        if let Some(reply_to) = &self.reply.reply_to {
            let correlation_id = self.reply.correlation_id.as_deref();
            let bytes = match self.reply.dialect {
                Dialect::Native => {
                    reply.meta.correlation_id = correlation_id.map(str::to_owned);
                    native::encode(&reply, None)
                }
                Dialect::CommlibPy => commlib_py::encode_reply(&reply, correlation_id),
            };
            self.bus
                .answer(reply_to, correlation_id.unwrap_or_default(), bytes.into());
        }
    }

    fn finish(self: Box<Self>) {}

    fn give_back(mut self: Box<Self>) {
        if let (Some(item), Some(address)) = (self.item.take(), self.addresses.get(self.index)) {
            self.bus.give_back(address.as_str(), item);
        }
    }
}

impl Drop for MemoryResponder {
    fn drop(&mut self) {
        self.permit = None;
        let (before, from) = self.addresses.split_at(self.index);
        // The next address first, so that none of them starves.
        for address in from.iter().skip(1).chain(before).chain(from.first()) {
            self.bus.pump(address.as_str());
        }
    }
}
