//! Bodies: from values to bytes and back, with errors that say where. Which codec a body has, its content type says.

mod buffer;
pub(crate) mod json;
pub(crate) mod message_pack;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How bodies are encoded.
///
/// A node's clients and publishers write in one codec ([`NodeBuilder::codec`](crate::NodeBuilder::codec)). Servers and
/// subscribers know the codec of each message by its content type, and servers reply in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// JSON, which every peer reads.
    #[default]
    Json,
    /// MessagePack, where both sides have the feature `msgpack`: objects are maps with the same names as in JSON, and
    /// what the schemas say of a type holds for it too; only byte strings are shorter.
    MessagePack,
}

impl Codec {
    /// What messages say of a body in this codec.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
        }
    }

    /// The codec that a content type names, in any case and with any parameters; `None` of any other.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |names: &[&str]| names.iter().any(|name| essence.eq_ignore_ascii_case(name));
        if is(&["application/json", "text/json"]) {
            Some(Self::Json)
        } else if is(&[
            "application/msgpack",
            "application/x-msgpack",
            "application/vnd.msgpack",
        ]) {
            Some(Self::MessagePack)
        } else {
            None
        }
    }

    /// The codec of a body that was received with this content type: JSON where nothing is said.
    ///
    /// # Errors
    /// What this side reads, when it is something else.
    pub(crate) fn of(content_type: Option<&str>) -> Result<Self, String> {
        let Some(named) = content_type else {
            return Ok(Self::Json);
        };
        match Self::from_content_type(named) {
            Some(codec) if codec.is_built() => Ok(codec),
            _ => {
                let start: String = named.chars().take(100).collect();
                let reads = if Self::MessagePack.is_built() {
                    "application/json and application/msgpack"
                } else {
                    "application/json"
                };
                Err(format!(
                    "the body is of the content type {start:?}, this side reads {reads}"
                ))
            }
        }
    }

    /// What a message that is sent says of its body: nothing where it is JSON.
    pub(crate) fn said(self) -> Option<String> {
        (self != Self::Json).then(|| self.content_type().to_owned())
    }

    /// Whether this build has it.
    pub(crate) const fn is_built(self) -> bool {
        match self {
            Self::Json => true,
            Self::MessagePack => cfg!(feature = "msgpack"),
        }
    }
}

/// Encodes a body.
///
/// # Errors
/// What the type's `Serialize` refused, such as a map whose keys are no strings.
pub(crate) fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Result<Bytes, String> {
    match codec {
        Codec::Json => buffer::written(|out| json::write(value, out)).map_err(|error| error.to_string()),
        Codec::MessagePack => buffer::written(|out| message_pack::write(value, out)),
    }
}

/// Decodes a body. An absent one is refused, except by types that take `null`.
///
/// # Errors
/// What is wrong, in JSON also at which line and column.
pub(crate) fn decode<T: DeserializeOwned>(codec: Codec, body: &[u8]) -> Result<T, String> {
    match codec {
        Codec::Json => {
            let body = if body.is_empty() { b"null" } else { body };
            serde_json::from_slice(body).map_err(|error| shortened(without_values(error.to_string())))
        }
        Codec::MessagePack => message_pack::decode(body).map_err(|reason| shortened(without_values(reason))),
    }
}

/// An error that repeats a name of the body, without the middle of a long one. At its end it says where.
fn shortened(error: String) -> String {
    /// Characters of either end.
    const KEPT: usize = 150;
    let Some((begin, _)) = error.char_indices().nth(KEPT) else {
        return error;
    };
    match error.char_indices().nth_back(KEPT) {
        Some((end, _)) if begin < end => format!("{} … {}", &error[..begin], &error[end..]),
        _ => error,
    }
}

/// What serde says of a fault, without the values that it repeats: they may be secrets, and errors are logged.
fn without_values(text: String) -> String {
    let phrase = ["invalid type: ", "invalid value: ", "unknown variant"]
        .into_iter()
        .find_map(|phrase| text.find(phrase).map(|at| at + phrase.len()));
    let Some(begin) = phrase else {
        return text;
    };
    let (head, rest) = text.split_at(begin);
    let end = rest.rfind(", expected ").unwrap_or(rest.len());
    let (value, expected) = rest.split_at(end);
    // "string \"…\"", "integer `…`", "map".
    let kind = value.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{head}{kind}{expected}")
}

/// Whether a body is nested no deeper than it may be. Sound bodies only: of others, decoding says what is wrong.
///
/// # Errors
/// What is too deep, and which limit that is.
pub(crate) fn check_depth(codec: Codec, body: &[u8], limit: usize) -> Result<(), String> {
    let over = match codec {
        Codec::Json => json_is_deeper(body, limit),
        Codec::MessagePack => message_pack::is_deeper(body, limit),
    };
    if over {
        Err(format!(
            "the body is nested more than {limit} deep; its receiver can raise the limit with `Limits::depth`"
        ))
    } else {
        Ok(())
    }
}

fn json_is_deeper(body: &[u8], limit: usize) -> bool {
    // Each level opens and closes, so that most bodies are known to be flat by their size, or by a search for openings
    // that takes many bytes at once.
    if body.len() <= 2 * limit || memchr::memchr2_iter(b'[', b'{', body).nth(limit).is_none() {
        return false;
    }
    let (mut depth, mut rest) = (0_usize, body);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'[' | b'{' if depth == limit => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => rest = after_string(rest),
            _ => {}
        }
    }
    false
}

/// What follows a string of which this is the rest.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else {
            return &[];
        };
        let (length, ends) = if rest.get(at) == Some(&b'"') {
            (at + 1, true)
        } else {
            (at + 2, false)
        };
        rest = rest.get(length..).unwrap_or_default();
        if ends {
            return rest;
        }
    }
}

/// Whether a body is an array, by its first byte.
pub(crate) fn is_array(codec: Codec, body: &[u8]) -> bool {
    match codec {
        Codec::Json => body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['),
        Codec::MessagePack => matches!(body.first(), Some(0x90..=0x9f | 0xdc | 0xdd)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_recognised_and_never_guessed() {
        for name in ["application/json", "Application/JSON; charset=utf-8", "text/json"] {
            assert_eq!(Codec::from_content_type(name), Some(Codec::Json), "{name}");
        }
        for name in [
            "application/msgpack",
            "application/x-msgpack ",
            "APPLICATION/VND.MSGPACK",
        ] {
            assert_eq!(Codec::from_content_type(name), Some(Codec::MessagePack), "{name}");
        }
        for name in ["", "application/xml", "json", "application/jsonx", "msgpack"] {
            assert_eq!(Codec::from_content_type(name), None, "{name}");
        }
        assert_eq!(Codec::of(None), Ok(Codec::Json));
        assert!(
            Codec::of(Some("application/xml"))
                .unwrap_err()
                .contains("\"application/xml\"")
        );
    }

    #[test]
    fn an_error_repeats_no_more_than_a_little_of_the_body() {
        let body = format!("\"{}\"", "é🦀".repeat(10_000));
        let error = decode::<u32>(Codec::Json, body.as_bytes()).unwrap_err();
        assert!(
            error.starts_with("invalid type: string, expected u32 at line 1"),
            "{error}"
        );
    }

    #[test]
    fn a_build_reads_what_it_has() {
        assert_eq!(
            Codec::of(Some("application/msgpack")).is_ok(),
            cfg!(feature = "msgpack")
        );
        assert_eq!(encode(Codec::MessagePack, &1).is_ok(), cfg!(feature = "msgpack"));
    }

    #[test]
    fn the_depth_of_bodies_is_found() {
        let fits = |codec, body: &[u8], limit| check_depth(codec, body, limit).is_ok();
        for limit in [1, 2, 64, 100] {
            for depth in [limit - 1, limit, limit + 1] {
                for (open, close) in [("[", "]"), (r#"{"[{\\\"":"#, "}"), (r#"["}]",{"a":0},"#, "]")] {
                    let json = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                    let depth = depth + usize::from(depth > 0 && open.len() > 10);
                    assert_eq!(
                        fits(Codec::Json, json.as_bytes(), limit),
                        depth <= limit,
                        "{json}"
                    );
                }
                let packed = [vec![0x91; depth], vec![0xc0]].concat();
                assert_eq!(
                    fits(Codec::MessagePack, &packed, limit),
                    depth <= limit,
                    "{depth}"
                );
                let empty = [vec![0x91; depth], vec![0x80]].concat();
                assert_eq!(fits(Codec::MessagePack, &empty, limit), depth < limit, "{depth}");
            }
        }
        // Wide is not deep, and what is in a string is neither.
        let wide = format!("[{}[]]", "[{}],".repeat(10_000));
        assert!(fits(Codec::Json, wide.as_bytes(), 3) && !fits(Codec::Json, wide.as_bytes(), 2));
        let text = serde_json::json!(["[".repeat(1000), "\"[\\\"".repeat(1000)]).to_string();
        assert!(fits(Codec::Json, text.as_bytes(), 1));
        let wide = [vec![0xdc, 0x27, 0x10], [0x91, 0x80].repeat(10_000)].concat();
        assert!(fits(Codec::MessagePack, &wide, 3) && !fits(Codec::MessagePack, &wide, 1));
        let text = [&[0xda, 0x03, 0xe8][..], &[0x91; 1000]].concat();
        assert!(fits(Codec::MessagePack, &text, 1));
    }

    #[test]
    fn errors_repeat_no_values() {
        #[derive(Debug, serde::Deserialize)]
        enum Side {
            Left,
            Right,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Account {
            #[expect(dead_code, reason = "only its decoding is looked at")]
            number: u8,
        }
        let fault = |body: &str| decode::<Account>(Codec::Json, body.as_bytes()).unwrap_err();
        for (body, kind) in [
            (
                r#"{"number":"canary"}"#,
                "invalid type: string, expected u8 at line 1 column 18",
            ),
            (
                r#"{"number":"canary, expected b"}"#,
                "invalid type: string, expected u8",
            ),
            (r#"{"number":7357}"#, "invalid value: integer, expected u8"),
            (r#"{"number":[]}"#, "invalid type: sequence, expected u8"),
            (r#"{}"#, "missing field `number`"),
        ] {
            let text = fault(body);
            assert!(
                text.starts_with(kind) && !text.contains("canary") && !text.contains("7357"),
                "{text}"
            );
        }
        assert!(fault(&format!("{{\"{}\":1}}", "é".repeat(100_000))).len() < 1000);
        let text = decode::<Side>(Codec::Json, br#""canary""#).unwrap_err();
        assert!(
            text.starts_with("unknown variant, expected `Left` or `Right`"),
            "{text}"
        );
        let sides =
            [r#""Left""#, r#""Right""#].map(|side| decode::<Side>(Codec::Json, side.as_bytes()).is_ok());
        assert_eq!(sides, [true; 2]);
        if cfg!(feature = "msgpack") {
            let text = decode::<Account>(Codec::MessagePack, b"\x81\xa6number\xa6canary").unwrap_err();
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn arrays_are_known_by_their_first_byte() {
        for (codec, body, array) in [
            (Codec::Json, &b" [1]"[..], true),
            (Codec::Json, b"{}", false),
            (Codec::MessagePack, b"\x90", true),
            (Codec::MessagePack, b"\x9f", true),
            (Codec::MessagePack, b"\xdc\0\0", true),
            (Codec::MessagePack, b"\xdd\0\0\0\0", true),
            (Codec::MessagePack, b"\x80", false),
            (Codec::MessagePack, b"[", false),
            (Codec::MessagePack, b"", false),
        ] {
            assert_eq!(is_array(codec, body), array, "{codec:?} {body:?}");
        }
    }
}
