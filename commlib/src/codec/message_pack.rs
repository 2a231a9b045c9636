//! MessagePack: values by serde where the feature is on, and by hand what envelopes need in every build, so that one
//! without the feature can still answer a request that it can't read.
//!
//! Nothing that a peer sends is trusted: every body is walked through once, without recursion, before serde sees it.
//! Then it is one whole value, its lengths are true, and it is nested no deeper than JSON may be; serde's own reader
//! neither minds bytes that follow nor counts the depth of enums.

use serde::Serialize;
use serde::de::DeserializeOwned;

const TOO_DEEP: &str = "it is nested too deep";

/// Whether a body is nested deeper than this. Of one that is unsound, decoding says so.
pub(super) fn is_deeper(body: &[u8], limit: usize) -> bool {
    let containers = || {
        let opens = |byte: &&u8| matches!(byte, 0x80..=0x9f | 0xdc..=0xdf);
        body.iter().filter(opens).count()
    };
    body.len() > limit
        && containers() > limit
        && Reader::new(body)
            .skip_within(limit)
            .is_err_and(|fault| fault.what == TOO_DEEP)
}

/// How deep arrays and maps may be nested, as in JSON's reader.
pub(crate) const MAX_DEPTH: usize = 128;

#[cfg(feature = "msgpack")]
pub(super) fn write<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), String> {
    // As people read it: so types such as addresses and times have the form that their schema describes.
    let mut serializer = rmp_serde::Serializer::new(out)
        .with_struct_map()
        .with_human_readable();
    value
        .serialize(&mut serializer)
        .map_err(|error| error.to_string())
}

#[cfg(feature = "msgpack")]
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.is_empty() { &[0xc0][..] } else { body };
    let mut reader = Reader::new(body);
    reader
        .skip()
        .and_then(|()| reader.end())
        .map_err(|fault| fault.to_string())?;
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body).with_human_readable();
    T::deserialize(&mut deserializer).map_err(|error| error.to_string())
}

#[cfg(not(feature = "msgpack"))]
const ABSENT: &str = "this build has no MessagePack; enable the feature `msgpack` of the crate commlib";

#[cfg(not(feature = "msgpack"))]
pub(super) fn write<T: Serialize + ?Sized>(_: &T, _: &mut Vec<u8>) -> Result<(), String> {
    Err(ABSENT.to_owned())
}

#[cfg(not(feature = "msgpack"))]
pub(super) fn decode<T: DeserializeOwned>(_: &[u8]) -> Result<T, String> {
    Err(ABSENT.to_owned())
}

/// Why bytes are not what was expected, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(crate) struct Fault {
    what: &'static str,
    at: usize,
}

/// The beginning of a value; of what is no container, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Nil,
    /// A whole number that is not negative.
    Uint(u64),
    /// Text, not known to be UTF-8.
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// So many values follow.
    Array(u32),
    /// So many pairs follow.
    Map(u32),
    /// Anything else: a boolean, a negative number, a float, an extension.
    Other,
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) const fn fault(&self, what: &'static str) -> Fault {
        Fault { what, at: self.at }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..length)) {
            Some(taken) => {
                self.at += length;
                Ok(taken)
            }
            None => Err(self.fault("the message ends too early")),
        }
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, Fault> {
        let digits = self.take(bytes)?;
        Ok(digits
            .iter()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Result<usize, Fault> {
        let length = self.number(bytes)?;
        usize::try_from(length).map_err(|_| self.fault("a length is out of range"))
    }

    fn count(&mut self, bytes: usize) -> Result<u32, Fault> {
        let count = self.number(bytes)?;
        u32::try_from(count).map_err(|_| self.fault("a length is out of range"))
    }

    /// The next value, or the beginning of it.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Fault> {
        let marker = self.take(1)?.first().copied().unwrap_or_default();
        let token = match marker {
            0x00..=0x7f => Token::Uint(marker.into()),
            0x80..=0x8f => Token::Map((marker & 0x0f).into()),
            0x90..=0x9f => Token::Array((marker & 0x0f).into()),
            0xa0..=0xbf => Token::Text(self.take((marker & 0x1f).into())?),
            0xc0 => Token::Nil,
            0xc1 => return Err(self.fault("a marker without a meaning")),
            0xc2 | 0xc3 | 0xe0..=0xff => Token::Other,
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Token::Bytes(self.take(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (marker - 0xc7))?;
                self.take(1)?;
                self.take(length)?;
                Token::Other
            }
            0xca | 0xcb => {
                self.take(4 << (marker - 0xca))?;
                Token::Other
            }
            0xcc..=0xcf => Token::Uint(self.number(1 << (marker - 0xcc))?),
            0xd0..=0xd3 => {
                let bytes = 1 << (marker - 0xd0);
                let number = self.number(bytes)?;
                if number >> (8 * bytes - 1) == 0 {
                    Token::Uint(number)
                } else {
                    Token::Other
                }
            }
            0xd4..=0xd8 => {
                self.take(1 + (1 << (marker - 0xd4)))?;
                Token::Other
            }
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                Token::Text(self.take(length)?)
            }
            0xdc | 0xdd => Token::Array(self.count(2 << (marker - 0xdc))?),
            0xde | 0xdf => Token::Map(self.count(2 << (marker - 0xde))?),
        };
        Ok(token)
    }

    /// Goes over one value, whatever it holds.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        self.skip_within(MAX_DEPTH)
    }

    /// Goes over one value that is nested no deeper than this.
    fn skip_within(&mut self, limit: usize) -> Result<(), Fault> {
        // How many values are still to come in each container that is open.
        let mut open = [0_u64; MAX_DEPTH];
        let mut depth = 0;
        loop {
            let holds = match self.token()? {
                Token::Array(_) | Token::Map(_) if depth >= limit => return Err(self.fault(TOO_DEEP)),
                Token::Array(values) => u64::from(values),
                Token::Map(pairs) => 2 * u64::from(pairs),
                _ => 0,
            };
            if holds > 0 {
                let Some(next) = open.get_mut(depth) else {
                    return Err(self.fault(TOO_DEEP));
                };
                *next = holds;
                depth += 1;
                continue;
            }
            // The value is over, and with it every container that it was the last of.
            loop {
                let Some(left) = depth.checked_sub(1).and_then(|inner| open.get_mut(inner)) else {
                    return Ok(());
                };
                *left -= 1;
                if *left > 0 {
                    break;
                }
                depth -= 1;
            }
        }
    }

    /// Makes sure that nothing follows.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.fault("more bytes follow"))
        }
    }
}

/// Writes the beginning of a map.
pub(crate) fn write_map(out: &mut Vec<u8>, pairs: usize) {
    match u16::try_from(pairs) {
        Ok(pairs @ 0..=15) => out.push(0x80 | pairs.to_le_bytes()[0]),
        Ok(pairs) => {
            out.push(0xde);
            out.extend_from_slice(&pairs.to_be_bytes());
        }
        Err(_) => {
            out.push(0xdf);
            out.extend_from_slice(&length(pairs).to_be_bytes());
        }
    }
}

/// Writes a text.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        short @ 0..=31 => out.push(0xa0 | short.to_le_bytes()[0]),
        _ => write_length(out, 0xd9, text.len()),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Writes a byte string.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_bytes_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes the beginning of a byte string; the bytes follow.
pub(crate) fn write_bytes_length(out: &mut Vec<u8>, length: usize) {
    write_length(out, 0xc4, length);
}

/// Writes a whole number.
pub(crate) fn write_uint(out: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let (marker, used) = match number {
        0..=0x7f => (None, 1),
        0x80..=0xff => (Some(0xcc), 1),
        0x100..=0xffff => (Some(0xcd), 2),
        0x1_0000..=0xffff_ffff => (Some(0xce), 4),
        _ => (Some(0xcf), 8),
    };
    out.extend(marker);
    out.extend_from_slice(&bytes[8 - used..]);
}

/// Writes a length of one, two or four bytes after its marker; `first` is the one for one byte.
fn write_length(out: &mut Vec<u8>, first: u8, bytes: usize) {
    let digits = length(bytes).to_be_bytes();
    let (marker, used) = match bytes {
        0..=0xff => (first, 1),
        0x100..=0xffff => (first + 1, 2),
        _ => (first + 2, 4),
    };
    out.push(marker);
    out.extend_from_slice(&digits[4 - used..]);
}

/// Nothing that is sent comes near 4 GiB: bodies and headers have limits.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(bytes: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(bytes);
        reader.skip()?;
        reader.end()
    }

    #[test]
    fn every_form_of_a_value_is_walked_over() {
        for (name, bytes) in [
            ("positive fixint", &[0x7f][..]),
            ("negative fixint", &[0xe0]),
            ("nil", &[0xc0]),
            ("false", &[0xc2]),
            ("true", &[0xc3]),
            ("bin 8", &[0xc4, 1, 0]),
            ("bin 16", &[0xc5, 0, 1, 0]),
            ("bin 32", &[0xc6, 0, 0, 0, 1, 0]),
            ("ext 8", &[0xc7, 2, 9, 0, 0]),
            ("ext 16", &[0xc8, 0, 1, 9, 0]),
            ("ext 32", &[0xc9, 0, 0, 0, 1, 9, 0]),
            ("float 32", &[0xca, 0, 0, 0, 0]),
            ("float 64", &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("uint 8", &[0xcc, 0]),
            ("uint 64", &[0xcf, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("int 8", &[0xd0, 0x80]),
            ("int 64", &[0xd3, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("fixext 1", &[0xd4, 9, 0]),
            ("fixext 4", &[0xd6, 9, 0, 0, 0, 0]),
            ("fixstr", &[0xa1, b'x']),
            ("str 8", &[0xd9, 1, b'x']),
            ("str 32", &[0xdb, 0, 0, 0, 1, b'x']),
            ("empty array", &[0x90]),
            ("array 16", &[0xdc, 0, 1, 0xc0]),
            ("array 32", &[0xdd, 0, 0, 0, 1, 0xc0]),
            ("fixmap", &[0x81, 0xa1, b'x', 0x91, 0x80]),
            ("map 16", &[0xde, 0, 1, 0, 0]),
            ("map 32", &[0xdf, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(walk(bytes), Ok(()), "{name}");
            assert!(walk(&bytes[..bytes.len() - 1]).is_err(), "{name} cut short");
            assert!(walk(&[bytes, &[0]].concat()).is_err(), "{name} and more");
        }
        assert!(walk(&[0xc1]).is_err());
    }

    #[test]
    fn the_depth_is_limited_without_recursion() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(walk(&nested(MAX_DEPTH)), Ok(()));
        assert!(walk(&nested(MAX_DEPTH + 1)).is_err());
        assert!(walk(&nested(1_000_000)).is_err());
        let maps = [[0x81, 0xc0].repeat(MAX_DEPTH + 1), vec![0xc0]].concat();
        assert!(walk(&maps).is_err());
    }

    #[test]
    fn declared_lengths_have_to_be_true() {
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0xff, 0xff, 0xff, 0xff, b'x'],
            &[0xc6, 0xff, 0xff, 0xff, 0xff, 0],
            &[0xc9, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert!(walk(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_and_lengths_are_written_as_short_as_they_go() {
        let written = |number| {
            let mut out = Vec::new();
            write_uint(&mut out, number);
            assert_eq!(Reader::new(&out).token(), Ok(Token::Uint(number)));
            out.len()
        };
        let sizes = [
            0,
            127,
            128,
            255,
            256,
            65_535,
            65_536,
            u64::from(u32::MAX),
            1 << 32,
            u64::MAX,
        ]
        .map(written);
        assert_eq!(sizes, [1, 1, 2, 2, 3, 3, 5, 5, 9, 9]);
        for length in [0, 31, 32, 255, 256, 65_535, 65_536] {
            let (mut text, mut bytes, mut map) = (Vec::new(), Vec::new(), Vec::new());
            let content = "x".repeat(length);
            write_text(&mut text, &content);
            write_bytes(&mut bytes, content.as_bytes());
            write_map(&mut map, length);
            assert_eq!(Reader::new(&text).token(), Ok(Token::Text(content.as_bytes())));
            assert_eq!(Reader::new(&bytes).token(), Ok(Token::Bytes(content.as_bytes())));
            assert_eq!(
                Reader::new(&map).token(),
                Ok(Token::Map(u32::try_from(length).unwrap()))
            );
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes(junk in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = walk(&junk);
        }
    }
}

#[cfg(all(test, feature = "msgpack"))]
mod value_tests {
    use std::net::IpAddr;

    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        write(value, &mut body).map(|()| body)
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Expression {
        Value,
        Not(Box<Expression>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Host {
        address: IpAddr,
        ports: Vec<u16>,
    }

    #[test]
    fn values_come_back() {
        let value = json!({"a": [1, -1, 1.5, null, true], "long": "x".repeat(70_000), "ü": {"": {}}});
        assert_eq!(decode::<Value>(&encode(&value).unwrap()), Ok(value));
        assert_eq!(decode::<Option<u8>>(b""), Ok(None));
        assert!(decode::<u8>(b"").is_err());
    }

    #[test]
    fn types_have_the_form_of_their_schema() {
        let host = Host {
            address: [127, 0, 0, 1].into(),
            ports: vec![1, 80],
        };
        let body = encode(&host).unwrap();
        assert_eq!(
            decode::<Value>(&body),
            Ok(json!({"address": "127.0.0.1", "ports": [1, 80]}))
        );
        assert_eq!(decode::<Host>(&body), Ok(host));
    }

    #[test]
    fn errors_say_what_is_missing() {
        let body = encode(&json!({"ports": []})).unwrap();
        assert!(
            decode::<Host>(&body)
                .unwrap_err()
                .contains("missing field `address`")
        );
    }

    #[test]
    fn a_body_is_one_value_and_nothing_more() {
        assert_eq!(decode::<u8>(&[1]), Ok(1));
        assert!(decode::<u8>(&[1, 2]).unwrap_err().contains("more bytes follow"));
    }

    /// On the stack of a thread of the runtime, where an overflow would end the process.
    #[test]
    fn hostile_nesting_ends_no_thread() {
        let small = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        let thread = small.spawn(|| {
            let enums = [
                [0x81, 0xa3, b'N', b'o', b't'].repeat(200_000),
                encode(&Expression::Value).unwrap(),
            ]
            .concat();
            assert!(
                decode::<Expression>(&enums)
                    .unwrap_err()
                    .contains("nested too deep")
            );
            let arrays = [vec![0x91; 1_000_000], vec![0xc0]].concat();
            assert!(decode::<Value>(&arrays).unwrap_err().contains("nested too deep"));
            // What is just allowed fits, too.
            let enums = [
                [0x81, 0xa3, b'N', b'o', b't'].repeat(MAX_DEPTH),
                encode(&Expression::Value).unwrap(),
            ]
            .concat();
            assert!(decode::<Expression>(&enums).is_ok());
            let arrays = [vec![0x91; MAX_DEPTH], vec![0xc0]].concat();
            assert!(decode::<Value>(&arrays).is_ok());
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for body in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0x7f, 0xff, 0xff, 0xff, 0xa1, b'x'],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(decode::<Value>(body).is_err());
            assert!(decode::<Vec<u64>>(body).is_err());
            assert!(decode::<std::collections::HashMap<String, u64>>(body).is_err());
            assert!(decode::<String>(body).is_err());
        }
    }
}
