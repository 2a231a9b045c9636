//! The short way to read an envelope that was written the way [`encode`](super::encode) writes it.
//!
//! Nearly all are. What is written otherwise, or is no envelope at all, is left to the parser that knows every form:
//! whatever is read here is read there to the same result.

use std::borrow::Cow;

use super::{PROPERTIES, WireMeta};
use crate::codec::json::plain_len;
use crate::envelope::Headers;

/// Deeper values are left to the other parser.
const MAX_DEPTH: u32 = 100;

/// The data of an envelope in the usual form; its meta is put where the caller has it, as it is too large to be handed on.
/// Of another form it may be there in part.
pub(super) fn envelope<'a>(text: &'a str, meta: &mut WireMeta<'a>) -> Option<&'a str> {
    let mut scan = Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
    };
    scan.expect(b"{\"data\":")?;
    scan.blank();
    let begin = scan.at;
    scan.value()?;
    let data = text.get(begin..scan.at)?;
    scan.expect(b",\"meta\":{")?;
    scan.meta(meta)?;
    scan.expect(b"}")?;
    (scan.at == text.len()).then_some(data)
}

/// A place in a text.
struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Passes over what must stand here. Its length is known where this is called, so that it is compared in place.
    #[inline]
    fn expect<const N: usize>(&mut self, what: &[u8; N]) -> Option<()> {
        self.skip(what).then_some(())
    }

    /// Passes over what may stand here; whether it did.
    #[inline]
    fn skip<const N: usize>(&mut self, what: &[u8; N]) -> bool {
        let found = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) == Some(what);
        if found {
            self.at += N;
        }
        found
    }

    /// The members of a meta, up to its end. They are looked for in the order in which they are written.
    fn meta(&mut self, meta: &mut WireMeta<'a>) -> Option<()> {
        let mut seen = 0_u8;
        if self.skip(b"}") {
            return Some(());
        }
        loop {
            let member = if self.skip(PROPERTIES) {
                1
            } else if self.skip(b"\"timestamp\":") {
                meta.timestamp = Some(self.member_number()?);
                2
            } else if self.skip(b"\"timeout_ms\":") {
                meta.timeout_ms = Some(self.member_number()?);
                4
            } else if self.skip(b"\"id\":") {
                meta.id = Some(self.member_string()?);
                8
            } else if self.skip(b"\"correlation_id\":") {
                meta.correlation_id = Some(self.member_string()?);
                16
            } else if self.skip(b"\"reply_to\":") {
                meta.reply_to = Some(self.member_string()?);
                32
            } else if self.skip(b"\"headers\":{") {
                meta.headers = self.headers()?;
                64
            } else {
                return None;
            };
            if seen & member != 0 {
                return None;
            }
            seen |= member;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn headers(&mut self) -> Option<Headers> {
        let mut headers = Headers::new();
        loop {
            let name = self.plain_string()?;
            self.expect(b":")?;
            headers.receive(name, self.plain_string()?);
            match self.next()? {
                b',' => {}
                b'}' => return Some(headers),
                _ => return None,
            }
        }
    }

    fn member_string(&mut self) -> Option<Cow<'a, str>> {
        self.plain_string().map(Cow::Borrowed)
    }

    /// A number that is neither negative nor broken, if it fits.
    fn member_number(&mut self) -> Option<u64> {
        let begin = self.at;
        let mut number = 0_u64;
        while let Some(digit) = self
            .peek()
            .map(|byte| byte.wrapping_sub(b'0'))
            .filter(|digit| *digit <= 9)
        {
            number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
            self.at += 1;
        }
        let leading_zero = self.at - begin > 1 && self.bytes.get(begin) == Some(&b'0');
        (self.at > begin && !leading_zero).then_some(number)
    }

    /// What is in a string without escapes.
    #[inline]
    fn plain_string(&mut self) -> Option<&'a str> {
        self.expect(b"\"")?;
        let begin = self.at;
        self.at += plain_len(self.bytes.get(begin..)?);
        let text = self.text.get(begin..self.at)?;
        self.expect(b"\"")?;
        Some(text)
    }

    /// Passes over a string; whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        self.expect(b"\"")?;
        let mut escapes = false;
        loop {
            self.at += plain_len(self.bytes.get(self.at..)?);
            match self.next()? {
                b'"' => return Some(escapes),
                b'\\' => {
                    escapes = true;
                    match self.next()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            for _ in 0..4 {
                                self.next().filter(u8::is_ascii_hexdigit)?;
                            }
                        }
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.skip(b"-");
        if !self.skip(b"0") {
            self.digits()?;
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn key(&mut self) -> Option<()> {
        self.blank();
        self.string()?;
        self.blank();
        self.expect(b":")
    }

    /// Passes over a value of any kind.
    fn value(&mut self) -> Option<()> {
        // Which of the values around this place are objects, the innermost in the lowest bit; the others are arrays.
        let (mut objects, mut depth) = (0_u128, 0_u32);
        loop {
            self.blank();
            let opened = match self.peek()? {
                b'"' => {
                    self.string()?;
                    false
                }
                b'{' | b'[' if depth == MAX_DEPTH => return None,
                b'{' => {
                    self.at += 1;
                    self.blank();
                    objects = objects << 1 | 1;
                    depth += 1;
                    self.peek()? != b'}'
                }
                b'[' => {
                    self.at += 1;
                    self.blank();
                    objects <<= 1;
                    depth += 1;
                    self.peek()? != b']'
                }
                b't' => self.expect(b"true").map(|()| false)?,
                b'f' => self.expect(b"false").map(|()| false)?,
                b'n' => self.expect(b"null").map(|()| false)?,
                _ => self.number().map(|()| false)?,
            };
            if opened {
                if objects & 1 == 1 {
                    self.key()?;
                }
                continue;
            }
            // After a value: what closes, or what follows.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.blank();
                match (self.next()?, objects & 1 == 1) {
                    (b'}', true) | (b']', false) => {
                        objects >>= 1;
                        depth -= 1;
                    }
                    (b',', true) => {
                        self.key()?;
                        break;
                    }
                    (b',', false) => break,
                    _ => return None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::{Wire, decode, encode};
    use super::*;
    use crate::envelope::{Dialect, Envelope, Meta};

    /// What the parser that knows every form makes of it.
    fn long_way(text: &str) -> Option<(String, String)> {
        let wire: Wire<'_> = serde_json::from_str(text).ok()?;
        Some((wire.data?.get().to_owned(), shown(&wire.meta?)))
    }

    fn short_way(text: &str) -> Option<(String, String)> {
        let mut meta = WireMeta::default();
        let data = envelope(text, &mut meta)?;
        Some((data.to_owned(), shown(&meta)))
    }

    /// All of it; the values of headers are not shown elsewhere.
    fn shown(meta: &WireMeta<'_>) -> String {
        let headers: Vec<_> = meta.headers.iter().collect();
        format!("{meta:?} {headers:?}")
    }

    #[test]
    fn what_we_write_takes_the_short_way() {
        let mut message = Envelope {
            data: Bytes::from_static(br#"{"a":[1,-2.5e3,"x\n\u00e9",{}],"b":[],"c":null,"d":true}"#),
            meta: Meta {
                id: Some("the-id".into()),
                correlation_id: Some("other".into()),
                timestamp: Some(u64::MAX),
                timeout_ms: Some(0),
                ..Meta::default()
            },
        };
        message.meta.headers.insert("a", "b");
        let wire = String::from_utf8(encode(&message, Some("list"))).unwrap();
        let mut meta = WireMeta::default();
        let data = envelope(&wire, &mut meta).unwrap();
        assert_eq!(data.as_bytes(), message.data);
        assert_eq!(meta.reply_to.as_deref(), Some("list"));
        message.meta.reply_to = Some("list".into());
        assert_eq!(decode(&wire.into()).unwrap(), (message, Dialect::Native));
    }

    #[test]
    fn what_is_unusual_or_wrong_is_left_to_the_long_way() {
        let meta = r#","meta":{}}"#;
        assert_eq!(
            short_way(&format!(r#"{{"data": 1{meta}"#)).map(|(data, _)| data),
            Some("1".to_owned())
        );
        for data in [
            "",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\u{1}\"",
            "[1 2]",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "[}",
            "{]",
            "1}",
            "1,\"x\":2",
            "{1:2}",
            ".5",
            "+1",
            "[",
            "{\"a\":",
            "nul",
            "1 1",
        ] {
            let text = format!(r#"{{"data":{data}{meta}"#);
            assert_eq!(short_way(&text), None, "{text}");
        }
        let deep = "[".repeat(1_000_000);
        assert_eq!(short_way(&format!("{{\"data\":{deep}")), None);
        for meta in [
            r#"{"id":"a","id":"b"}"#,
            r#"{"id":"\n"}"#,
            r#"{"id":null}"#,
            r#"{"timestamp":01}"#,
            r#"{"timestamp":18446744073709551616}"#,
            r#"{"timestamp":-1}"#,
            r#"{"later":1}"#,
            r#"{"properties":{}}"#,
            r#"{"headers":{"a":1}}"#,
            r#"{"id":"a",}"#,
        ] {
            assert_eq!(
                short_way(&format!(r#"{{"data":1,"meta":{meta}}}"#)),
                None,
                "{meta}"
            );
        }
        for text in [
            r#"{"data":1,"meta":{}}x"#,
            r#"{"data":1,"meta":{},"x":1}"#,
            r#"{"data":1}"#,
            "",
        ] {
            assert_eq!(short_way(text), None, "{text}");
        }
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
            any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
            "[ -~]{0,40}".prop_map(|text| serde_json::json!(text).to_string()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5)
                    .prop_map(|items| format!("[{}]", items.join(" , "))),
                prop::collection::vec((any::<String>(), inner), 0..5).prop_map(|members| {
                    let member = |(key, value)| format!("{}: {value}", serde_json::json!(key));
                    format!(
                        "{{ {}}}",
                        members.into_iter().map(member).collect::<Vec<String>>().join(",")
                    )
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn both_ways_lead_to_the_same_place(
            data in json(),
            meta in prop_oneof![Just("{}".to_owned()), Just(r#"{"id":"x","timestamp":12}"#.to_owned())],
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![Just(None), prop::sample::select(&b"{}[]\",:\\01e-. \ntu"[..]).prop_map(Some)],
        ) {
            let mut text = format!(r#"{{"data":{data},"meta":{meta}}}"#);
            prop_assert_eq!(short_way(&text), long_way(&text));
            // The same with a byte that should not be there.
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            if let Some(byte) = byte {
                text.insert(at, char::from(byte));
            } else {
                text.remove(at);
            }
            if let Some(short) = short_way(&text) {
                prop_assert_eq!(Some(short), long_way(&text));
            }
        }
    }
}
