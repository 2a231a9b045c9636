//! What fuzz targets look at in this transport.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "for the fuzz targets of this project alone"
)]

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;

use super::properties::{self, Question};
use crate::envelope::{Dialect, Envelope, Malformed};
use crate::transport::{ReplyRoute, Taken, TransportError};

pub use super::wire::fuzz::{Split, read_properties, split, write_properties};

/// A request as it was read, and what answering it needs.
#[derive(Debug)]
pub struct Asked {
    pub taken: Taken,
    pub dialect: Dialect,
    pub correlation_id: Option<String>,
    /// Exchange and routing key of the reply.
    pub route: Option<(&'static str, String)>,
    pub refused: bool,
    question: Question,
}

pub fn read_request(properties: &BasicProperties, body: Bytes, max_body: usize) -> Asked {
    let (taken, question) = properties::read_request(properties, body.clone(), body.len(), max_body);
    let route = question.route.as_ref();
    Asked {
        taken,
        dialect: question.dialect,
        correlation_id: question.correlation_id.clone(),
        route: route.map(|route| (route.exchange, route.key.clone())),
        refused: question.refused,
        question,
    }
}

pub fn read_reply(properties: &BasicProperties, body: Bytes) -> Option<(String, Envelope)> {
    properties::read_reply(properties, body)
}

pub fn read_topic(properties: &BasicProperties, body: Bytes) -> Result<Envelope, Malformed> {
    properties::read_topic(properties, body)
}

pub fn request(
    message: &Envelope,
    time_to_live: Duration,
    reply: Option<ReplyRoute>,
    dialect: Dialect,
) -> Result<(BasicProperties, Bytes), TransportError> {
    properties::request(message, time_to_live, reply, dialect)
}

pub fn topic(message: &Envelope) -> Result<(BasicProperties, Bytes), TransportError> {
    properties::topic(message)
}

pub fn reply(reply: &Envelope, asked: &Asked) -> (BasicProperties, Bytes) {
    properties::reply(reply, &asked.question)
}
