//! From bytes to values and back, by the parser and the commands of the crate `redis`.
//!
//! What the crate does not do: a string over the limit of the reader is skipped while it streams in, so that no peer
//! that put half a gigabyte into a list makes this process hold it. Both ends of it are kept, as they say whom to
//! answer. The parser sees them as a short string with an attribute, a thing of RESP3 that no string can forge.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use redis::{Cmd, Parser, PushKind, ServerError};

/// How much of each end of a skipped string is kept.
pub(super) const KEPT: usize = 4 * 1024;
/// The longest line of the protocol: types, lengths, short texts and errors.
const MAX_LINE: usize = 64 * 1024;
/// The attribute of a skipped string.
const SKIPPED: &str = "commlib-skipped";

/// A value, as far as this transport asks for any.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    Text(String),
    Error(ServerError),
    Bulk(Bytes),
    /// A string over the limit.
    Skipped(Skipped),
    /// Arrays and sets, and maps as their keys and values in turn.
    Array(Vec<Value>),
    Push(PushKind, Vec<Value>),
}

/// A string that was too large to keep.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Skipped {
    pub(super) size: usize,
    pub(super) head: Bytes,
    pub(super) tail: Bytes,
}

impl Value {
    /// The text of a string of any kind.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    fn skipped(self, attributes: &[(redis::Value, redis::Value)]) -> Self {
        match (self, attributes) {
            (Self::Bulk(mut head), [(redis::Value::SimpleString(name), redis::Value::Int(size))])
                if name == SKIPPED =>
            {
                let tail = head.split_off(head.len().min(KEPT));
                Self::Skipped(Skipped {
                    size: usize::try_from(*size).unwrap_or(usize::MAX),
                    head,
                    tail,
                })
            }
            (value, _) => value,
        }
    }
}

impl From<redis::Value> for Value {
    fn from(value: redis::Value) -> Self {
        let all = |values: Vec<redis::Value>| values.into_iter().map(Self::from).collect();
        match value {
            redis::Value::Int(int) => Self::Int(int),
            redis::Value::BulkString(bytes) => Self::Bulk(bytes.into()),
            redis::Value::SimpleString(text) | redis::Value::VerbatimString { text, .. } => Self::Text(text),
            redis::Value::Okay => Self::Text("OK".into()),
            redis::Value::Array(values) | redis::Value::Set(values) => Self::Array(all(values)),
            redis::Value::Map(pairs) => Self::Array(
                pairs
                    .into_iter()
                    .flat_map(|(key, value)| [key.into(), value.into()])
                    .collect(),
            ),
            redis::Value::Push { kind, data } => Self::Push(kind, all(data)),
            redis::Value::ServerError(error) => Self::Error(error),
            redis::Value::Attribute { data, attributes } => Self::from(*data).skipped(&attributes),
            // Numbers with a point, truth values and what is yet to come are not asked for.
            _ => Self::Nil,
        }
    }
}

/// Appends a command.
pub(super) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    let mut command = Cmd::with_capacity(words.len(), words.iter().map(|word| word.len()).sum());
    for word in words {
        command.arg(*word);
    }
    command.write_packed_command(out);
}

/// The server sent what is not RESP3. What it sent is not repeated: it may be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak RESP3")]
pub(super) struct NotResp;

/// Reads values out of a buffer that grows.
pub(super) struct Decoder {
    parser: Parser,
    gate: Gate,
}

impl Decoder {
    /// Strings over `limit` bytes are skipped.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            parser: Parser::new(),
            gate: Gate {
                limit: limit.max(2 * KEPT),
                state: State::Line,
                ahead: BytesMut::new(),
            },
        }
    }

    /// Takes the next value off the front of `buffer`, or whatever part of it is there.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, NotResp> {
        let feed = Feed {
            gate: &mut self.gate,
            buffer,
        };
        match self.parser.parse_value(feed) {
            Ok(value) => Ok(Some(value.into())),
            // The parser keeps what it has and goes on where it stopped.
            Err(error) if error.is_io_error() && !self.gate.is_broken() => Ok(None),
            Err(_) => Err(NotResp),
        }
    }
}

/// Lets bytes through to the parser, but of a string over the limit only its ends.
struct Gate {
    limit: usize,
    state: State,
    /// Bytes of its own that come before what is in the buffer.
    ahead: BytesMut,
}

enum State {
    /// A line is next.
    Line,
    /// So many bytes go through as they are.
    Pass(usize),
    /// So many bytes of a string do not.
    Skip {
        size: usize,
        left: usize,
        head: BytesMut,
        tail: BytesMut,
    },
    /// A line had no end.
    Broken,
}

impl Gate {
    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Decides about the next bytes. Whether there is something to let through now.
    fn advance(&mut self, buffer: &mut BytesMut) -> bool {
        loop {
            match &mut self.state {
                State::Broken => return false,
                State::Pass(0) => self.state = State::Line,
                State::Pass(_) => return !buffer.is_empty(),
                State::Line => {
                    let Some(end) = buffer.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
                        if buffer.len() >= MAX_LINE {
                            self.state = State::Broken;
                        }
                        return false;
                    };
                    // All other types are lines, or lines that say how many values follow.
                    let size = match &buffer[..end] {
                        [b'$' | b'=' | b'!', digits @ .., b'\r'] => std::str::from_utf8(digits)
                            .ok()
                            .and_then(|text| text.parse::<usize>().ok()),
                        _ => None,
                    };
                    self.state = match size {
                        Some(size) if size > self.limit => {
                            buffer.advance(end + 1);
                            State::Skip {
                                size,
                                left: size,
                                head: BytesMut::new(),
                                tail: BytesMut::new(),
                            }
                        }
                        Some(size) => State::Pass(end + 1 + size + 2),
                        None => State::Pass(end + 1),
                    };
                }
                State::Skip {
                    size,
                    left,
                    head,
                    tail,
                } => {
                    let here = buffer.len().min(*left);
                    let kept = here.min(KEPT - head.len());
                    head.extend_from_slice(&buffer[..kept]);
                    tail.extend_from_slice(&buffer[here - here.min(KEPT)..here]);
                    if tail.len() > KEPT {
                        tail.advance(tail.len() - KEPT);
                    }
                    *left -= here;
                    buffer.advance(here);
                    if *left > 0 {
                        return false;
                    }
                    let ends = head.len() + tail.len();
                    let introduction = format!("|1\r\n+{SKIPPED}\r\n:{size}\r\n${ends}\r\n");
                    self.ahead.extend_from_slice(introduction.as_bytes());
                    self.ahead.extend_from_slice(head);
                    self.ahead.extend_from_slice(tail);
                    // The end of the line.
                    self.state = State::Pass(2);
                    return true;
                }
            }
        }
    }
}

/// What the parser reads from.
struct Feed<'a> {
    gate: &'a mut Gate,
    buffer: &'a mut BytesMut,
}

impl Read for Feed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let count = if !self.gate.ahead.is_empty() {
                let count = self.gate.ahead.len().min(out.len() - done);
                self.gate.ahead.copy_to_slice(&mut out[done..done + count]);
                count
            } else if self.gate.advance(self.buffer) {
                let State::Pass(left) = &mut self.gate.state else {
                    break;
                };
                if !self.gate.ahead.is_empty() {
                    continue;
                }
                let count = self.buffer.len().min(out.len() - done).min(*left);
                self.buffer.copy_to_slice(&mut out[done..done + count]);
                *left -= count;
                count
            } else {
                break;
            };
            done += count;
        }
        if done == 0 {
            // Not the end, which would be an error in the middle of a value.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8], piece: usize, limit: usize) -> Vec<Value> {
        let mut decoder = Decoder::new(limit);
        let mut buffer = BytesMut::new();
        let mut values = Vec::new();
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(value) = decoder.decode(&mut buffer).unwrap() {
                values.push(value);
            }
        }
        assert!(buffer.is_empty());
        values
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn reads_the_same_in_pieces_of_any_size() {
        let bytes = b"+OK\r\n:-5\r\n_\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n*2\r\n$1\r\na\r\n*1\r\n$2\r\n\r\n\r\n\
            >3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\np\r\n|1\r\n+ttl\r\n:1\r\n%1\r\n+id\r\n:7\r\n";
        let expected = vec![
            Value::Text("OK".into()),
            Value::Int(-5),
            Value::Nil,
            Value::Nil,
            Value::Nil,
            Value::Array(vec![]),
            bulk(""),
            Value::Array(vec![bulk("a"), Value::Array(vec![bulk("\r\n")])]),
            Value::Push(PushKind::Message, vec![bulk("c"), bulk("p")]),
            Value::Array(vec![Value::Text("id".into()), Value::Int(7)]),
        ];
        for piece in 1..bytes.len() {
            assert_eq!(decode_all(bytes, piece, 0), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn reads_errors() {
        let values = decode_all(b"-NOPERM no\r\n!7\r\nOOM out\r\n", 1, 0);
        let [Value::Error(first), Value::Error(second)] = values.as_slice() else {
            panic!("{values:?}")
        };
        assert_eq!((first.code(), first.details()), ("NOPERM", Some("no")));
        assert_eq!((second.code(), second.details()), ("OOM", Some("out")));
    }

    #[test]
    fn skips_what_is_over_the_limit_and_keeps_its_ends() {
        let mut body = vec![b'x'; 100_000];
        body[0] = b'a';
        body[99_999] = b'z';
        let mut bytes = b"*2\r\n$100000\r\n".to_vec();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(b"\r\n:1\r\n+OK\r\n");
        for piece in [1, 1000, 1_000_000] {
            let values = decode_all(&bytes, piece, 99_999);
            let [Value::Array(parts), Value::Text(_)] = values.as_slice() else {
                panic!("{} values", values.len())
            };
            let Value::Skipped(skipped) = &parts[0] else {
                panic!("not skipped")
            };
            assert_eq!(skipped.size, 100_000);
            assert_eq!(skipped.head, body[..KEPT]);
            assert_eq!(skipped.tail, body[100_000 - KEPT..]);
            assert_eq!(parts[1], Value::Int(1));
            let whole = decode_all(&bytes, piece, 100_000);
            assert_eq!(
                whole[0],
                Value::Array(vec![Value::Bulk(body.clone().into()), Value::Int(1)])
            );
        }
    }

    #[test]
    fn refuses_what_is_not_resp() {
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$x\r\n",
            b":1x\r\n",
            b"$1\r\nabc\r\n",
            &[b'+'; MAX_LINE],
            &b"*1\r\n".repeat(200),
        ] {
            let mut decoder = Decoder::new(0);
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(decoder.decode(&mut buffer), Err(NotResp), "{bytes:?}");
        }
    }

    #[test]
    fn writes_commands() {
        let mut out = b"+".to_vec();
        command(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"+*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
