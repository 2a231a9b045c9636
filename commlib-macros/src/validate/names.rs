//! Names on the wire, and durations.
//!
//! The grammar of addresses has one home, `Address::from_static` of commlib, which generated code calls at compile time. The
//! checks here only give the common mistakes a better message and a better place.

use std::time::Duration;

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::{Ident, LitStr};

use crate::diag::Errors;

/// A name and where it was written.
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A name of several levels (`robot.arm`): from the literal if there is one, else from the trait's name.
pub(crate) fn levels(literal: Option<&LitStr>, ident: &Ident, what: &str, errors: &mut Errors) -> Name {
    let name = Name::new(literal, || snake_case(&ident.unraw().to_string()), ident);
    if name.text.is_empty() {
        errors.push_at(name.span, format!("{what} can't be empty"));
    } else if name.text.split('.').any(str::is_empty) {
        errors.push_at(
            name.span,
            format!("empty level in {what}: levels are joined by single dots"),
        );
    } else if let Some(level) = name.text.split('.').find(|level| !is_level(level)) {
        errors.push_at(
            name.span,
            format!("bad level `{level}` in {what}: {LEVEL}, and levels are joined by single dots"),
        );
    }
    name
}

/// A name of one level: from the literal if there is one, else the identifier.
pub(crate) fn level(literal: Option<&LitStr>, ident: &Ident, what: &str, errors: &mut Errors) -> Name {
    let name = Name::new(literal, || ident.unraw().to_string(), ident);
    if !is_level(&name.text) {
        let text = &name.text;
        let hint = if literal.is_none() {
            "; give it another with `#[rpc(name = \"…\")]`"
        } else {
            ""
        };
        errors.push_at(name.span, format!("bad {what} `{text}`: {LEVEL}{hint}"));
    }
    name
}

/// The key of an argument in the request object; JSON takes any text but an empty key helps nobody.
pub(crate) fn key(literal: Option<&LitStr>, ident: &Ident, errors: &mut Errors) -> Name {
    let name = Name::new(literal, || ident.unraw().to_string(), ident);
    if name.text.is_empty() {
        errors.push_at(name.span, "the name of an argument can't be empty");
    }
    name
}

impl Name {
    fn new(literal: Option<&LitStr>, otherwise: impl FnOnce() -> String, ident: &Ident) -> Self {
        match literal {
            Some(literal) => Name {
                text: literal.value(),
                span: literal.span(),
            },
            None => Name {
                text: otherwise(),
                span: ident.span(),
            },
        }
    }
}

pub(crate) const LEVEL: &str = "a level is one or more of the characters `A-Z`, `a-z`, `0-9`, `_` and `-`";

pub(crate) fn is_level(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// `HTTPServer2` → `http_server2`.
pub(crate) fn snake_case(camel: &str) -> String {
    let chars = camel.chars().collect::<Vec<_>>();
    let mut snake = String::with_capacity(camel.len() + 4);
    for (i, c) in chars.iter().enumerate() {
        let after_small = i > 0
            && chars
                .get(i - 1)
                .is_some_and(|p| p.is_lowercase() || p.is_numeric());
        let ends_capitals = i > 0
            && chars.get(i - 1).is_some_and(|p| p.is_uppercase())
            && chars.get(i + 1).is_some_and(|n| n.is_lowercase());
        if c.is_uppercase() && (after_small || ends_capitals) {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// `"1.5s"` → 1.5 seconds. Exact: no floating point.
pub(crate) fn duration(literal: &LitStr, errors: &mut Errors) -> Option<Duration> {
    let text = literal.value();
    match parse_duration(&text) {
        Some(Duration::ZERO) => {
            errors.push(
                literal,
                "a timeout must be more than zero; leave it out for the default deadline",
            );
            None
        }
        Some(duration) => Some(duration),
        None => {
            let message = format!(
                "`{text}` is no duration: write a number and `ms`, `s`, `m` or `h`, such as `\"500ms\"` or `\"1.5s\"`"
            );
            errors.push(literal, message);
            None
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let nanos_per_unit: u128 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) | Some(("", _)) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let mut nanos = whole.parse::<u128>().ok()?.checked_mul(nanos_per_unit)?;
    let mut place = nanos_per_unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += u128::from(digit - b'0') * place;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact() {
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("0.1s"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("1.5m"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_duration("0.000001ms"), Some(Duration::from_nanos(1)));
    }

    #[test]
    fn what_is_no_duration() {
        for text in [
            "",
            "s",
            "2",
            "2 s",
            "-1s",
            "+1s",
            "1e3s",
            ".5s",
            "5.s",
            "1,5s",
            "2sec",
            "2S",
            "99999999999999999999h",
            "²s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn snake_case_of_type_names() {
        for (camel, snake) in [
            ("Calculator", "calculator"),
            ("MoveTo", "move_to"),
            ("HTTPServer", "http_server"),
            ("V2Api", "v2_api"),
            ("already_snake", "already_snake"),
            ("X", "x"),
        ] {
            assert_eq!(snake_case(camel), snake);
        }
    }
}
