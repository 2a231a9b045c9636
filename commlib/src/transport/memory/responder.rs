//! Answers requests on the bus.

use bytes::Bytes;

use super::queue::{Content, Place, Requester};
use crate::envelope::{Dialect, Envelope, Malformed, commlib_py, native};
use crate::limits::too_large;
use crate::transport::{Responder, TransportError, TransportErrorKind};

/// Where and how a request is answered.
#[derive(Default)]
pub(super) struct ReplyRoute {
    pub(super) to: ReplyTo,
    correlation_id: Option<String>,
    dialect: Dialect,
}

/// Where.
#[derive(Default)]
pub(super) enum ReplyTo {
    #[default]
    Nobody,
    /// A node of this bus.
    Node(Requester),
    /// The address in a message that a test put in.
    Address(String),
}

impl ReplyRoute {
    /// Of a request from a node of this bus.
    pub(super) fn to_node(message: &Envelope, requester: Option<Requester>) -> Self {
        match requester {
            Some(requester) => Self {
                to: ReplyTo::Node(requester),
                correlation_id: message.meta.id.clone(),
                dialect: Dialect::Native,
            },
            None => Self::default(),
        }
    }

    /// Of a request that came as bytes.
    pub(super) fn from_message(message: &Envelope, dialect: Dialect) -> Self {
        let meta = &message.meta;
        Self {
            to: ReplyTo::named(&meta.reply_to),
            correlation_id: meta.correlation_id.clone().or_else(|| meta.id.clone()),
            dialect,
        }
    }

    /// Of bytes that are no request.
    pub(super) fn from_malformed(malformed: &Malformed) -> Self {
        Self {
            to: ReplyTo::named(&malformed.reply_to),
            correlation_id: malformed.correlation_id.clone(),
            dialect: Dialect::Native,
        }
    }

    /// Forgets an address that is not of the form that requesters own, and says false.
    pub(super) fn check(&mut self, address: &str) -> bool {
        let legal = !matches!(&self.to, ReplyTo::Address(reply_to) if !is_reply_address(reply_to));
        if !legal {
            tracing::warn!(
                address,
                "a request names a reply address that is none; it will not be answered"
            );
            self.to = ReplyTo::Nobody;
        }
        legal
    }
}

impl ReplyTo {
    fn named(reply_to: &Option<String>) -> Self {
        reply_to.clone().map_or(Self::Nobody, Self::Address)
    }
}

impl Requester {
    /// Hands a reply over, if it is not too large for this node.
    pub(super) fn reply(&self, correlation_id: &str, reply: Envelope) {
        let (size, limit) = (reply.data.len(), self.max_body);
        if size <= limit {
            return self.sink.reply(correlation_id, reply);
        }
        let error = TransportError {
            kind: TransportErrorKind::TooLarge,
            execution: crate::Execution::Failed,
            message: too_large("the body of the reply", size, limit),
        };
        self.sink.failed(correlation_id, error);
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
    pub(super) reply: ReplyRoute,
    /// The message as it came, if it came as bytes.
    pub(super) raw: Option<Bytes>,
    pub(super) place: Place,
}

impl Responder for MemoryResponder {
    fn wants_reply(&self) -> bool {
        !matches!(self.reply.to, ReplyTo::Nobody)
    }

    fn reply(self: Box<Self>, mut reply: Envelope) {
        let route = &self.reply;
        let correlation_id = route.correlation_id.as_deref();
        match &route.to {
            ReplyTo::Nobody => {}
            ReplyTo::Node(requester) => requester.reply(correlation_id.unwrap_or_default(), reply),
            ReplyTo::Address(reply_to) => {
                let bytes = match route.dialect {
                    Dialect::Native => {
                        reply.meta.correlation_id = correlation_id.map(str::to_owned);
                        native::encode(&reply, None)
                    }
                    Dialect::CommlibPy => commlib_py::encode_reply(&reply, correlation_id),
                };
                if let Some(bus) = self.place.bus() {
                    bus.answer(reply_to, correlation_id.unwrap_or_default(), bytes.into());
                }
            }
        }
    }

    fn finish(self: Box<Self>) {}

    fn give_back(mut self: Box<Self>, message: Envelope) {
        let content = match (self.raw.take(), std::mem::take(&mut self.reply.to)) {
            (Some(raw), _) => Content::Raw(raw),
            (None, ReplyTo::Node(requester)) => Content::Message(message, Some(requester)),
            (None, _) => Content::Message(message, None),
        };
        self.place.give_back(content);
    }
}
