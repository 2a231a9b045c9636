//! The vectors of `tests/vectors`, which other languages can be tested with too, against our own reader and writer.

use bytes::Bytes;
use commlib::envelope::{Dialect, Envelope, Malformed, Meta, commlib_py, native};
use commlib::{Address, Pattern};
use serde_json::{Map, Value, json};

fn vectors(file: &str) -> Value {
    let path = format!("{}/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let found = value[name].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!found.is_empty(), "no vectors under {name}");
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(bytes)))
}

/// A message in the notation of the vectors.
fn notation(message: &Envelope) -> Value {
    let Meta {
        id,
        correlation_id,
        reply_to,
        timestamp,
        timeout_ms,
        content_type,
        content_encoding,
        headers,
        error,
    } = &message.meta;
    let mut out = Map::new();
    // Beside an error the body means nothing; commlib-py's form repeats the error there.
    let no_data = message.data.is_empty() || error.is_some();
    out.insert(
        "data".into(),
        if no_data {
            Value::Null
        } else {
            parse(&message.data)
        },
    );
    for (name, value) in [
        ("id", id),
        ("correlation_id", correlation_id),
        ("reply_to", reply_to),
        ("content_type", content_type),
        ("content_encoding", content_encoding),
    ] {
        if let Some(value) = value {
            out.insert(name.into(), value.as_str().into());
        }
    }
    for (name, value) in [("timestamp", timestamp), ("timeout_ms", timeout_ms)] {
        if let Some(value) = value {
            out.insert(name.into(), (*value).into());
        }
    }
    if !headers.is_empty() {
        let headers: Map<_, _> = headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        out.insert("headers".into(), headers.into());
    }
    if let Some(error) = error {
        let mut object = json!({"code": error.code, "message": error.message});
        if let Some(execution) = error.execution {
            object["execution"] = execution.as_str().into();
        }
        if !error.details.is_empty() {
            object["details"] = parse(&error.details);
        }
        out.insert("error".into(), object);
    }
    out.into()
}

fn read(wire: &Value) -> Result<(Envelope, Dialect), Malformed> {
    native::decode(&Bytes::copy_from_slice(text(wire).as_bytes()))
}

fn from_hex(hex: &Value) -> Bytes {
    let hex = text(hex);
    let digits = (0..hex.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn addresses_and_patterns() {
    let vectors = vectors("addresses.json");
    for good in list(&vectors["addresses"], "good") {
        assert!(Address::new(text(good)).is_ok(), "address {good}");
    }
    for bad in list(&vectors["addresses"], "bad") {
        assert!(Address::new(text(bad)).is_err(), "address {bad}");
    }
    for good in list(&vectors["patterns"], "good") {
        assert!(Pattern::new(text(good)).is_ok(), "pattern {good}");
    }
    for bad in list(&vectors["patterns"], "bad") {
        assert!(Pattern::new(text(bad)).is_err(), "pattern {bad}");
    }
    for case in list(&vectors, "matches") {
        let pattern = Pattern::new(text(&case["pattern"])).expect("a pattern");
        for (name, expected) in [("yes", true), ("no", false)] {
            for address in case[name].as_array().expect("a list") {
                assert_eq!(
                    pattern.matches(text(address)),
                    expected,
                    "{pattern} and {address}"
                );
            }
        }
    }
}

#[test]
fn native_requests_and_replies() {
    for vector in list(&vectors("envelope.json"), "requests_and_replies") {
        let name = &vector["name"];
        let (message, dialect) = read(&vector["wire"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(notation(&message), vector["message"], "{name}");
        assert_eq!(dialect, Dialect::Native, "{name}");
        if vector["direction"] == "both" {
            let written = native::encode(&message, None);
            assert_eq!(
                parse(&written),
                parse(text(&vector["wire"]).as_bytes()),
                "{name}, written"
            );
        }
    }
}

#[test]
fn native_and_bare_topic_messages() {
    let vectors = vectors("envelope.json");
    for vector in list(&vectors, "topics") {
        let name = &vector["name"];
        let wire = Bytes::copy_from_slice(text(&vector["wire"]).as_bytes());
        let message = native::decode_topic(&wire).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(notation(&message), vector["message"], "{name}");
        if vector["direction"] == "both" {
            assert_eq!(
                parse(&native::encode(&message, None)),
                parse(&wire),
                "{name}, written"
            );
        }
    }
    for vector in list(&vectors, "refuse_topics") {
        let wire = Bytes::copy_from_slice(text(&vector["wire"]).as_bytes());
        assert!(native::decode_topic(&wire).is_err(), "{}", vector["name"]);
    }
}

#[test]
fn malformed_messages_are_refused_and_still_tell_whom_to_answer() {
    for file in ["envelope.json", "commlib_py.json"] {
        for vector in list(&vectors(file), "refuse") {
            let name = &vector["name"];
            let Err(malformed) = read(&vector["wire"]) else {
                panic!("{name} was read")
            };
            assert_eq!(
                malformed.reply_to.as_deref(),
                vector["reply_to"].as_str(),
                "{name}"
            );
            assert_eq!(
                malformed.correlation_id.as_deref(),
                vector["correlation_id"].as_str(),
                "{name}"
            );
        }
    }
    for vector in list(&vectors("envelope.json"), "refuse_bytes") {
        let bytes = from_hex(&vector["wire_hex"]);
        assert!(native::decode(&bytes).is_err(), "{}", vector["name"]);
        assert!(
            native::decode_topic(&bytes).is_err(),
            "{}, on a topic",
            vector["name"]
        );
    }
}

#[test]
fn native_messages_of_message_pack() {
    let vectors = vectors("message_pack.json");
    for vector in list(&vectors, "messages") {
        let name = &vector["name"];
        let wire = from_hex(&vector["wire_hex"]);
        let (message, dialect) = native::decode(&wire).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(dialect, Dialect::Native, "{name}");
        // Bodies are bytes to the envelope, whatever they are to others.
        let mut said = message.clone();
        let body = std::mem::take(&mut said.data);
        let details = said
            .meta
            .error
            .as_mut()
            .map(|error| std::mem::take(&mut error.details));
        let mut noted = notation(&said);
        let fields = noted.as_object_mut().expect("an object");
        fields.remove("data");
        fields.insert("body_hex".into(), to_hex(&body).into());
        if let Some(details) = details {
            noted["error"]["details_hex"] = to_hex(&details).into();
        }
        assert_eq!(noted, vector["message"], "{name}");
        assert_eq!(
            native::decode_topic(&wire).as_ref(),
            Ok(&message),
            "{name}, on a topic"
        );
        if vector["direction"] == "both" {
            assert_eq!(
                to_hex(&native::encode(&message, None)),
                text(&vector["wire_hex"]),
                "{name}, written"
            );
        }
    }
    for vector in list(&vectors, "refuse") {
        let (name, wire) = (&vector["name"], from_hex(&vector["wire_hex"]));
        let Err(malformed) = native::decode(&wire) else {
            panic!("{name} was read")
        };
        assert_eq!(
            malformed.reply_to.as_deref(),
            vector["reply_to"].as_str(),
            "{name}"
        );
        assert_eq!(
            malformed.correlation_id.as_deref(),
            vector["correlation_id"].as_str(),
            "{name}"
        );
        assert!(native::decode_topic(&wire).is_err(), "{name}, on a topic");
    }
}

#[test]
fn commlib_py_bodies() {
    let vectors = vectors("commlib_py.json");
    for vector in list(&vectors, "bodies") {
        let name = &vector["name"];
        let (message, dialect) = read(&vector["wire"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(notation(&message), vector["message"], "{name}");
        assert_eq!(dialect, Dialect::CommlibPy, "{name}");
        if vector["direction"] != "both" {
            continue;
        }
        let mut written = parse(&match text(&vector["role"]) {
            "request" => {
                commlib_py::encode_request(&message, message.meta.reply_to.as_deref().unwrap_or_default())
            }
            _ => commlib_py::encode_reply(&message, message.meta.correlation_id.as_deref()),
        });
        let wire = parse(text(&vector["wire"]).as_bytes());
        // Written with the time of writing; its peers require an integer.
        assert!(written["header"]["timestamp"].is_u64(), "{name}, written");
        written["header"]["timestamp"] = wire["header"]["timestamp"].clone();
        assert_eq!(written, wire, "{name}, written");
    }
    for vector in list(&vectors, "redis_topics") {
        let wire = Bytes::copy_from_slice(text(&vector["payload"]).as_bytes());
        let message = native::decode_topic(&wire).unwrap_or_else(|error| panic!("{vector}: {error}"));
        assert_eq!(notation(&message), vector["message"]);
    }
}
