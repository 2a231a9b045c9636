//! For the tests of transports: what a node was told of its requests.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{ReplySink, TransportError};
use crate::envelope::{Envelope, Malformed};

/// What a reply sink was told.
#[derive(Debug)]
pub(super) enum Told {
    Reply(String, Box<Envelope>),
    Malformed,
    Failed(String, TransportError),
    Lost(TransportError),
}

struct Replies(UnboundedSender<Told>);

impl ReplySink for Replies {
    fn reply(&self, id: &str, reply: Envelope) {
        let _ = self.0.send(Told::Reply(id.to_owned(), Box::new(reply)));
    }

    fn malformed(&self, _: &str, _: Malformed) {
        let _ = self.0.send(Told::Malformed);
    }

    fn failed(&self, id: &str, error: TransportError) {
        let _ = self.0.send(Told::Failed(id.to_owned(), error));
    }

    fn lost(&self, error: TransportError) {
        let _ = self.0.send(Told::Lost(error));
    }
}

/// A sink, and what it is told.
pub(super) fn replies() -> (Arc<dyn ReplySink>, UnboundedReceiver<Told>) {
    let (sender, receiver) = unbounded_channel();
    (Arc::new(Replies(sender)), receiver)
}
