//! What fuzz targets look at in this transport.

#![allow(missing_docs, reason = "for the fuzz targets of this project alone")]

use bytes::BytesMut;

use super::pubsub::Topic;
use super::resp::{Decoder, Value};
use super::{pop, responder, salvage};
use crate::address::Pattern;
use crate::envelope::native;

/// Whether a pattern is subscribed to as a glob, and the name of the channel or glob.
pub fn covering(pattern: &Pattern) -> (bool, String) {
    let topic = Topic::covering(pattern);
    (topic.glob, topic.name)
}

/// Whether a request may be answered at this address.
pub fn is_reply_address(list: &str) -> bool {
    responder::is_node_list(list) || responder::is_call_list(list)
}

/// What a connection makes of what the broker sends.
#[derive(Debug, PartialEq)]
pub struct Read {
    values: Vec<Value>,
    /// Whether the connection is given up.
    pub failed: bool,
}

/// Reads what comes in these pieces, with a limit for strings.
pub fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> Read {
    let (mut decoder, mut buffer) = (Decoder::new(limit), BytesMut::new());
    let mut read = Read {
        values: Vec::new(),
        failed: false,
    };
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(value)) => read.values.push(value),
                Ok(None) => break,
                Err(_) => {
                    read.failed = true;
                    return read;
                }
            }
        }
    }
    read
}

impl Read {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Takes the values for answers of a pop, and each item for a message. The number of items.
    pub fn pop(self, keys: &[&str], modern: bool) -> usize {
        let Some(popped) = pop::decode(self.values, keys, modern) else {
            return 0;
        };
        for (_, item) in &popped.items {
            match item {
                Value::Bulk(bytes) => drop(native::decode(bytes)),
                Value::Skipped(skipped) => drop(salvage::route(skipped)),
                _ => {}
            }
        }
        popped.items.len()
    }
}
