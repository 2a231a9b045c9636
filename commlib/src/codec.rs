//! Bodies: from values to JSON and back, with errors that say where.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes a body.
///
/// # Errors
/// What the type's `Serialize` refused, such as a map whose keys are no strings.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, String> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

/// Decodes a body. An absent one is refused, except by types that take `null`.
///
/// # Errors
/// What is wrong and at which line and column.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
