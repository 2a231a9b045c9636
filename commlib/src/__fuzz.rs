//! What the fuzz targets look at beyond the public interface. Built only with `--cfg fuzzing`, and no part of it.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "for the fuzz targets of this project alone"
)]

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::codec::message_pack::Reader;
use crate::codec::{self, Codec};
use crate::compression::{self, Compression};
use crate::envelope::{Dialect, Envelope, Malformed, msgpack, native};
use crate::error::Status;
use crate::limits::Limits;

#[cfg(feature = "amqp")]
pub use crate::transport::amqp::fuzz as amqp;
#[cfg(feature = "redis")]
pub use crate::transport::redis::fuzz as redis;

/// The short way to read a JSON envelope, if it takes it.
pub fn usual(bytes: &Bytes) -> Option<Envelope> {
    native::usual(bytes)
}

/// The way that reads every JSON envelope.
pub fn in_any_form(bytes: &Bytes) -> Result<(Envelope, Dialect), Malformed> {
    native::in_any_form(bytes)
}

pub fn topic_in_any_form(bytes: &Bytes) -> Result<Envelope, Malformed> {
    native::topic_in_any_form(bytes)
}

/// Whom to answer about a MessagePack message of which there is only the beginning.
pub fn message_pack_route(bytes: &[u8]) -> Malformed {
    msgpack::route(bytes)
}

/// Whether bytes are one MessagePack value that is nested no deeper than allowed, as the walker sees it.
pub fn is_message_pack(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    reader.skip().and_then(|()| reader.end()).is_ok()
}

/// A smaller form of a body, if there is one.
pub fn deflate(compression: Compression, body: &[u8]) -> Option<Bytes> {
    compression.deflate(body)
}

pub fn inflate(encoding: &str, body: &[u8], limits: &Limits) -> Result<Bytes, Status> {
    compression::inflate(encoding, body, limits).map(|(_, body)| body)
}

pub fn decode<T: DeserializeOwned>(codec: Codec, body: &[u8]) -> Result<T, String> {
    codec::decode(codec, body)
}
