//! From bytes to values and back: the part of RESP3 that this transport asks for.
//!
//! Strings are slices of the read buffer, so that a body is not copied on its way up. What is half there stays where
//! it is until the rest comes; what is complete is never looked at twice.
//!
//! A string over the limit of the reader is skipped while it streams in, so that no peer that put half a gigabyte into
//! a list makes this process hold it. Both ends of it are kept, as they say whom to answer.

use bytes::{Buf, Bytes, BytesMut};
use redis::{PushKind, ServerError};

/// How much of each end of a skipped string is kept.
pub(super) const KEPT: usize = 4 * 1024;
/// The longest line of the protocol: types, lengths, short texts and errors.
const MAX_LINE: usize = 64 * 1024;
/// How deep values may be nested.
const MAX_DEPTH: usize = 64;
/// Room that is made ahead for the values of an array, whatever length it claims.
const AHEAD: usize = 1024;

/// A value, as far as this transport asks for any.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    /// Short texts, and numbers with a point.
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
}

/// Begins a command of so many words; each of them follows by [`word`] or [`number`].
pub(super) fn begin(out: &mut Vec<u8>, words: usize) {
    length(out, b'*', words);
}

/// Appends a word of a command.
pub(super) fn word(out: &mut Vec<u8>, word: &[u8]) {
    out.reserve(word.len() + 32);
    length(out, b'$', word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number as a word.
pub(super) fn number(out: &mut Vec<u8>, number: i64) {
    word(out, itoa::Buffer::new().format(number).as_bytes());
}

/// Appends the line that begins a command or a word.
pub(super) fn length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a command.
pub(super) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    begin(out, words.len());
    for part in words {
        word(out, part);
    }
}

/// The server sent what is not RESP3. What it sent is not repeated: it may be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak RESP3")]
pub(super) struct NotResp;

/// Reads values out of a buffer that grows.
pub(super) struct Decoder {
    limit: usize,
    state: State,
    /// The values that are open, the innermost last.
    open: Vec<Open>,
}

/// What comes next.
enum State {
    /// A line.
    Line,
    /// A string of so many bytes, and the end of its line.
    Text { kind: u8, size: usize },
    /// The rest of a string of which only the ends are kept.
    Skip {
        size: usize,
        left: usize,
        head: BytesMut,
        tail: BytesMut,
    },
}

/// A value that is made of others.
struct Open {
    kind: u8,
    left: usize,
    values: Vec<Value>,
}

impl Decoder {
    /// Strings over `limit` bytes are skipped.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(2 * KEPT),
            state: State::Line,
            open: Vec::new(),
        }
    }

    /// Takes the next value off the front of `buffer`, or whatever part of it is there.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, NotResp> {
        while let Some(step) = self.step(buffer)? {
            if let Step::Value(value) = step
                && let Some(whole) = self.close(value)
            {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// How many bytes the string that is being read still lacks when so many are in the buffer.
    pub(super) fn lacks(&self, there: usize) -> usize {
        match self.state {
            State::Text { size, .. } => size.saturating_add(2).saturating_sub(there),
            State::Line | State::Skip { .. } => 0,
        }
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Option<Step>, NotResp> {
        match &mut self.state {
            State::Line => self.line(buffer),
            State::Text { kind, size } => {
                let (kind, size) = (*kind, *size);
                if buffer.len() < size.saturating_add(2) {
                    return Ok(None);
                }
                let text = buffer.split_to(size).freeze();
                self.state = State::Line;
                end_of_line(buffer)?;
                let value = match kind {
                    b'$' => Value::Bulk(text),
                    // A form of three characters and a colon come before the text.
                    b'=' => Value::Text(utf8(text.get(4..).ok_or(NotResp)?)?),
                    _ => error(&text)?,
                };
                Ok(Some(Step::Value(value)))
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
                if *left > 0 || buffer.len() < 2 {
                    return Ok(None);
                }
                let skipped = Skipped {
                    size: *size,
                    head: std::mem::take(head).freeze(),
                    tail: std::mem::take(tail).freeze(),
                };
                self.state = State::Line;
                end_of_line(buffer)?;
                Ok(Some(Step::Value(Value::Skipped(skipped))))
            }
        }
    }

    fn line(&mut self, buffer: &mut BytesMut) -> Result<Option<Step>, NotResp> {
        let Some(end) = buffer.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
            return if buffer.len() >= MAX_LINE {
                Err(NotResp)
            } else {
                Ok(None)
            };
        };
        let (kind, rest) = match &buffer[..end] {
            [kind, rest @ .., b'\r'] => (*kind, rest),
            _ => return Err(NotResp),
        };
        let step = match kind {
            b'+' => Step::Value(Value::Text(utf8(rest)?)),
            b'-' => Step::Value(error(rest)?),
            b':' => Step::Value(Value::Int(int(rest)?)),
            b',' => Step::Value(Value::Text(utf8(rest)?)),
            // Truth values and large numbers are not asked for.
            b'_' | b'#' | b'(' => Step::Value(Value::Nil),
            b'$' | b'=' | b'!' => self.text(kind, int(rest)?)?,
            b'*' | b'~' | b'%' | b'>' | b'|' => self.begin(kind, int(rest)?)?,
            _ => return Err(NotResp),
        };
        buffer.advance(end + 1);
        Ok(Some(step))
    }

    fn text(&mut self, kind: u8, size: i64) -> Result<Step, NotResp> {
        if size == -1 {
            return Ok(Step::Value(Value::Nil));
        }
        let size = usize::try_from(size).map_err(|_| NotResp)?;
        self.state = if size > self.limit {
            State::Skip {
                size,
                left: size,
                head: BytesMut::new(),
                tail: BytesMut::new(),
            }
        } else {
            State::Text { kind, size }
        };
        Ok(Step::More)
    }

    fn begin(&mut self, kind: u8, count: i64) -> Result<Step, NotResp> {
        if count == -1 {
            return Ok(Step::Value(Value::Nil));
        }
        let count = usize::try_from(count).map_err(|_| NotResp)?;
        let left = match kind {
            b'%' | b'|' => count.checked_mul(2).ok_or(NotResp)?,
            _ => count,
        };
        if self.open.len() >= MAX_DEPTH {
            return Err(NotResp);
        }
        let open = Open {
            kind,
            left,
            values: Vec::with_capacity(left.min(AHEAD)),
        };
        if left > 0 {
            self.open.push(open);
            return Ok(Step::More);
        }
        Ok(open.whole().map_or(Step::More, Step::Value))
    }

    /// Puts a value where it belongs; the outermost one if that is complete now.
    fn close(&mut self, mut value: Value) -> Option<Value> {
        loop {
            let Some(open) = self.open.last_mut() else {
                return Some(value);
            };
            open.values.push(value);
            open.left -= 1;
            if open.left > 0 {
                return None;
            }
            value = self.open.pop()?.whole()?;
        }
    }
}

enum Step {
    /// Nothing that is complete yet.
    More,
    Value(Value),
}

impl Open {
    /// What it is, now that it is complete. Attributes, which say something about the value after them, are nothing.
    fn whole(self) -> Option<Value> {
        match self.kind {
            b'|' => None,
            b'>' => {
                let mut values = self.values.into_iter();
                let kind = values.next();
                let kind = push_kind(kind.as_ref().and_then(Value::as_str).unwrap_or_default());
                Some(Value::Push(kind, values.collect()))
            }
            _ => Some(Value::Array(self.values)),
        }
    }
}

fn push_kind(name: &str) -> PushKind {
    match name {
        "message" => PushKind::Message,
        "pmessage" => PushKind::PMessage,
        "subscribe" => PushKind::Subscribe,
        "psubscribe" => PushKind::PSubscribe,
        "unsubscribe" => PushKind::Unsubscribe,
        "punsubscribe" => PushKind::PUnsubscribe,
        other => PushKind::Other(other.to_owned()),
    }
}

fn end_of_line(buffer: &mut BytesMut) -> Result<(), NotResp> {
    if !buffer.starts_with(b"\r\n") {
        return Err(NotResp);
    }
    buffer.advance(2);
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<String, NotResp> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| NotResp)
}

fn int(digits: &[u8]) -> Result<i64, NotResp> {
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(NotResp);
    }
    let mut number = 0_i64;
    for digit in digits {
        let digit = digit
            .checked_sub(b'0')
            .filter(|digit| *digit <= 9)
            .ok_or(NotResp)?;
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_sub(i64::from(digit)))
            .ok_or(NotResp)?;
    }
    if negative {
        Ok(number)
    } else {
        number.checked_neg().ok_or(NotResp)
    }
}

/// An error, with the type of the crate `redis` for those that it does not know by itself: its parser would be the larger
/// part of what a program has of that crate.
fn error(text: &[u8]) -> Result<Value, NotResp> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| NotResp)?;
    let (code, details) = line
        .split_once(' ')
        .map_or((line, None), |(code, details)| (code, Some(details)));
    let error = redis::make_extension_error(code.to_owned(), details.map(ToOwned::to_owned));
    ServerError::try_from(error)
        .map(Value::Error)
        .map_err(|_| NotResp)
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
