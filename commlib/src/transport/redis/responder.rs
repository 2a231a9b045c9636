//! The one answer to a request that was taken from a work queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Life;
use super::handle::Handle;
use super::jobs::{GiveBack, Job};
use super::outbox::Outbox;
use crate::address::Address;
use crate::envelope::{Dialect, Encoded, Envelope, commlib_py, native};
use crate::transport::Responder;

/// The way back to the sender of a request.
#[derive(Debug, PartialEq)]
pub(super) struct Route {
    pub(super) list: String,
    dialect: Dialect,
    correlation_id: Option<String>,
}

impl Route {
    /// A route to an address that requesters own; any other is logged and counted, and nothing is written to it.
    pub(super) fn new(
        reply_to: Option<String>,
        dialect: Option<Dialect>,
        correlation_id: Option<String>,
        handle: &Handle,
    ) -> Option<Self> {
        let list = reply_to?;
        let per_call = is_call_list(&list);
        if !per_call && !is_node_list(&list) {
            let refused = handle.refused_replies.fetch_add(1, Ordering::Relaxed) + 1;
            let shown: String = list.chars().take(64).collect();
            tracing::warn!(
                reply_to = ?shown,
                refused,
                "a request names a reply address that is none; it will not be answered"
            );
            return None;
        }
        Some(Self {
            list,
            // Of what can't be read, the form of the address tells the form of the answer.
            dialect: dialect.unwrap_or(if per_call {
                Dialect::CommlibPy
            } else {
                Dialect::Native
            }),
            correlation_id,
        })
    }

    /// The reply in the form that its reader expects. There is one only.
    pub(super) fn encode(&mut self, mut reply: Envelope, handle: &Handle) -> Encoded {
        match self.dialect {
            Dialect::Native => {
                reply.meta.correlation_id = self.correlation_id.take();
                reply.meta.reply_to = None;
                handle.clock.stamp(&mut reply.meta);
                native::encode_apart(&reply, None)
            }
            Dialect::CommlibPy => commlib_py::encode_reply(&reply, self.correlation_id.as_deref()).into(),
        }
    }
}

/// `commlib:reply:` and 24 characters.
pub(super) fn is_node_list(list: &str) -> bool {
    list.strip_prefix("commlib:reply:").is_some_and(|id| {
        id.len() == 24
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    })
}

/// `rpc-` and 32 lower-case hexadecimal digits.
pub(super) fn is_call_list(list: &str) -> bool {
    list.strip_prefix("rpc-")
        .is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

pub(super) struct RedisResponder {
    outbox: Arc<Outbox>,
    /// The batch that the request came in.
    batch: u64,
    _life: Option<Life>,
    /// Taken by the one use.
    pending: Option<Pending>,
    answered: bool,
}

impl Drop for RedisResponder {
    fn drop(&mut self) {
        if !self.answered {
            self.outbox.finished(self.batch);
        }
    }
}

struct Pending {
    address: Address,
    /// The request as it was; nothing if it was too large to keep.
    item: Option<Bytes>,
    route: Option<Route>,
    permit: OwnedSemaphorePermit,
}

impl RedisResponder {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        batch: u64,
        life: Option<Life>,
        address: Address,
        item: Option<Bytes>,
        route: Option<Route>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            outbox,
            batch,
            _life: life,
            pending: Some(Pending {
                address,
                item,
                route,
                permit,
            }),
            answered: false,
        }
    }
}

impl Responder for RedisResponder {
    fn wants_reply(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| pending.route.is_some())
    }

    fn reply(mut self: Box<Self>, reply: Envelope) {
        let Some(Pending {
            route: Some(mut route),
            permit,
            ..
        }) = self.pending.take()
        else {
            return;
        };
        let item = route.encode(reply, &self.outbox.handle);
        self.answered = true;
        self.outbox.reply(self.batch, route.list, item, Some(permit));
    }

    fn finish(mut self: Box<Self>) {
        self.pending = None;
    }

    fn give_back(mut self: Box<Self>, _: Envelope) {
        if let Some(Pending {
            address,
            item: Some(item),
            permit,
            ..
        }) = self.pending.take()
        {
            self.outbox.handle.queue(Job::GiveBack(GiveBack {
                list: address,
                item,
                _permit: permit,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_requesters_are_answered() {
        let (handle, _jobs) = Handle::new();
        let node = format!("commlib:reply:{}", "aZ0_-x".repeat(4));
        let call = format!("rpc-{}", "0f".repeat(16));
        let route = |text: &str| Route::new(Some(text.to_owned()), None, None, &handle);
        assert_eq!(route(&node).unwrap().dialect, Dialect::Native);
        assert_eq!(route(&call).unwrap().dialect, Dialect::CommlibPy);
        assert!(Route::new(None, None, None, &handle).is_none());
        assert_eq!(handle.refused_replies.load(Ordering::Relaxed), 0);
        let forged = [
            String::new(),
            "calculator.add".into(),
            "commlib:presence:calculator.add".into(),
            format!("{node}x"),
            format!("commlib:reply:{}", "é".repeat(12)),
            format!("commlib:reply:{}\n", "a".repeat(23)),
            call.to_uppercase(),
            call.replace('f', "g"),
            "x".repeat(10_000),
        ];
        for text in &forged {
            assert!(route(text).is_none(), "{text:?}");
        }
        assert_eq!(
            handle.refused_replies.load(Ordering::Relaxed),
            forged.len() as u64
        );
    }
}
