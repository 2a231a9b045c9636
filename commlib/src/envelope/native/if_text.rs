//! Texts that peers may have left out, or put something else in place of.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A string, or nothing of any other value.
pub(super) struct IfText(pub(super) Option<String>);

impl<'de> Deserialize<'de> for IfText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = IfText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_str<E>(self, text: &str) -> Result<IfText, E> {
                Ok(IfText(Some(text.to_owned())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<IfText, E> {
                Ok(IfText(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<IfText, E> {
                Ok(IfText(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<IfText, E> {
                Ok(IfText(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<IfText, E> {
                Ok(IfText(None))
            }

            fn visit_unit<E>(self) -> Result<IfText, E> {
                Ok(IfText(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<IfText, A::Error> {
                IgnoredAny.visit_seq(seq).map(|_| IfText(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<IfText, A::Error> {
                IgnoredAny.visit_map(map).map(|_| IfText(None))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_and_all_else_is_passed_over() {
        let read = |json: &str| {
            serde_json::from_str::<Vec<IfText>>(json).map(|all| {
                let texts = all.into_iter().map(|IfText(text)| text);
                texts.collect::<Vec<_>>()
            })
        };
        let others = r#"[true, -1, 1, 1.5, 1e400, null, [1, ["a"], {}], {"a": "b", "c": {"d": [2]}}]"#;
        assert!(read(others).is_err(), "a number that is none");
        let others = others.replace("1e400, ", "");
        assert_eq!(read(&others).unwrap(), vec![None; 7]);
        let texts = read(r#"["", "a", "\u00e9\n", [0], "after"]"#).unwrap();
        let kept = ["", "a", "é\n"].map(|text| Some(text.to_owned()));
        assert_eq!(texts[..3], kept);
        assert_eq!(texts[3..], [None, Some("after".to_owned())]);
    }
}
