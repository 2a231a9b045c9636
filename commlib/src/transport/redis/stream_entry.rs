//! Hands up the entries that a member of a group has taken: messages of a durable topic, or requests to a durable method.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::kept;
use super::resp::Value;
use super::stream_held::Unsettled;
use super::stream_id::EntryId;
use super::stream_member::Member;
use crate::envelope::{Envelope, native};
use crate::limits::too_large;
use crate::transport::{Settle, TopicMessage, Tracked};

impl Member {
    /// Delivers an entry.
    pub(super) fn entry(&self, attempt: u32, entry: Vec<Value>, permits: &mut OwnedSemaphorePermit) {
        let mut entry = entry.into_iter();
        let (Some(Value::Bulk(id)), Some(Value::Array(fields))) = (entry.next(), entry.next()) else {
            return;
        };
        let Some(id) = EntryId::read(&id) else { return };
        self.shared.hold(id);
        let settle = Box::new(Unsettled {
            id,
            attempt,
            shared: Arc::clone(&self.shared),
            route: None,
            answer: None,
            settled: false,
        });
        let (mut address, mut item) = (None, None);
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match name.as_str() {
                Some("a") => address = value.as_str().map(str::to_owned),
                Some("m") => item = Some(value),
                // For another group of the stream.
                Some("g") if value.as_str() != Some(&self.shared.place.group) => return settle.handled(),
                _ => {}
            }
        }
        let Some(address) = address.filter(|address| self.pattern.matches(address)) else {
            return settle.handled();
        };
        if self.shared.place.requests {
            return self.request(address, &item.unwrap_or(Value::Nil), settle, permits);
        }
        let message = match item {
            Some(Value::Bulk(bytes)) => self.decode(&bytes),
            Some(Value::Skipped(skipped)) => Err(self.too_large(skipped.size)),
            _ => Err("it has no message".to_owned()),
        };
        match message {
            Ok(message) => self.hand_up(address, message, settle, permits),
            Err(reason) => {
                self.sink.dropped(&reason);
                settle.dead(reason);
            }
        }
    }

    /// Delivers a request to a durable method.
    fn request(
        &self,
        address: String,
        item: &Value,
        mut settle: Box<Unsettled>,
        permits: &mut OwnedSemaphorePermit,
    ) {
        let (message, route) = kept::read(item, self.max_body, &self.shared.handle);
        settle.route = route;
        match message {
            Ok(message) => self.hand_up(address, message, settle, permits),
            Err(reason) => {
                self.sink.dropped(&reason.1);
                settle.answer(kept::refused(&reason));
                settle.dead(reason.1);
            }
        }
    }

    fn hand_up(
        &self,
        address: String,
        message: Envelope,
        settle: Box<Unsettled>,
        permits: &mut OwnedSemaphorePermit,
    ) {
        self.sink.message(TopicMessage {
            address,
            message,
            permit: permits.split(1),
            tracked: Some(Tracked {
                attempt: settle.attempt,
                wants_answer: settle.route.is_some(),
                settle,
            }),
        });
    }

    fn decode(&self, bytes: &Bytes) -> Result<Envelope, String> {
        let mut message = native::decode_topic(bytes).map_err(|malformed| malformed.reason)?;
        if message.data.len() > self.max_body {
            return Err(self.too_large(message.data.len()));
        }
        self.shared.handle.clock.read(&mut message.meta);
        Ok(message)
    }

    fn too_large(&self, size: usize) -> String {
        too_large("it", size, self.max_body)
    }
}
