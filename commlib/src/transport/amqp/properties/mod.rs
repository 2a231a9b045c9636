//! Messages as AMQP carries them: the body is the bare data, the rest rides in the properties and the headers table.
//!
//! Every short string is checked here, because the client library panics over 255 bytes; and the size of the headers,
//! because the broker closes the whole connection when they do not fit one frame.

mod read;
mod write;

use lapin::types::ShortString;

pub(super) use self::read::{
    Question, number_header, read_reply, read_request, read_topic, sent_at, text_header,
};
pub(super) use self::write::{kept, reply, request, topic};
use crate::transport::{TransportError, TransportErrorKind};

const TIMEOUT: &str = "commlib-timeout-ms";
const TIMESTAMP: &str = "commlib-timestamp-us";
const ERROR_CODE: &str = "commlib-error-code";
const ERROR_MESSAGE: &str = "commlib-error-message";
const ERROR_EXECUTION: &str = "commlib-error-execution";
const REPLY_EXCHANGE: &str = "commlib-reply-exchange";

/// The direct exchange that reply queues are bound to.
pub(super) const EXCHANGE_OF_REPLIES: &str = "commlib.reply";
/// The pseudo queue of Direct Reply-to.
pub(super) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

const TYPE: &str = "commlib.";
/// Bodies up to this length, in bytes, are checked to be JSON where nothing says it: that costs both sides and the broker
/// less than a word about it.
const CHECKED: usize = 512;
const REQUEST: &str = "commlib.request";
const MESSAGE: &str = "commlib.message";
const REPLY: &str = "commlib.reply";
const ERROR: &str = "commlib.error";

/// Properties have to fit one frame of 128 KiB beside what the broker adds.
const MAX_HEADERS: usize = 96 * 1024;
/// Texts of errors are cut here: they are for people.
const MAX_ERROR_TEXT: usize = 8 * 1024;

/// A short string, or an error in place of the library's panic.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, TransportError> {
    ShortString::try_new(text).map_err(|_| {
        TransportError::did_not_run(
            TransportErrorKind::TooLarge,
            format!("the {what} is {} bytes, AMQP takes 255", text.len()),
        )
    })
}

/// A short string of a text that is known to fit; a longer one is cut, which no caller can tell from not fitting.
pub(super) fn name(text: &str) -> ShortString {
    ShortString::try_new(cut(text, 255)).unwrap_or_default()
}

/// At most this many bytes, ending between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    &text[..end]
}

/// Whether a body has the name of what commlib-py's requests have, so that it has to be read to know what it is.
fn names_header(body: &[u8]) -> bool {
    const NAME: &[u8] = b"\"header\"";
    body.windows(NAME.len()).any(|part| part == NAME)
}

/// Whether a body begins as commlib-py begins it; for bodies that are not read to the end.
fn looks_like_py(body: &[u8]) -> bool {
    body.trim_ascii_start()
        .strip_prefix(b"{")
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\"header\""))
}

#[cfg(test)]
mod tests;
