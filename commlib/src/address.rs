//! Addresses, patterns and templates: the one grammar and the one matcher that every transport uses.
//!
//! An address is one or more levels of `[A-Za-z0-9_-]+` joined by dots, at most [`MAX_LEN`] bytes:
//! `calculator.add`, `sensors.sonar.front`. A pattern may use `*` for exactly one level and a final `#` for
//! any number of levels, none included. A template is a pattern whose variable levels have names:
//! `sensors.sonar.{side}`.
//!
//! Brokers disagree about wildcards (a Redis glob crosses dots, an AMQP `*` does not), so transports subscribe
//! with whatever covers a pattern and let [`Pattern::matches`] decide.

use std::fmt;
use std::sync::Arc;

/// The longest address, pattern or template, in bytes.
pub const MAX_LEN: usize = 200;

/// What is wrong with an address, a pattern or a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It has no characters.
    #[error("it is empty; write levels joined by dots, such as `calculator.add`")]
    Empty,
    /// It has more than [`MAX_LEN`] bytes.
    #[error("it is longer than 200 bytes")]
    TooLong,
    /// Two dots stand side by side, or a dot stands at an end.
    #[error("it has an empty level; dots only separate levels")]
    EmptyLevel,
    /// A character outside the grammar, at this byte offset.
    #[error("the character at byte {0} is not allowed; levels are made of A-Z, a-z, 0-9, `_` and `-`")]
    BadCharacter(usize),
    /// A wildcard in an address that is published or served.
    #[error("the wildcard at byte {0} is not allowed here; only subscriptions take wildcards")]
    Wildcard(usize),
    /// A `*` beside other characters, or a `#` that is not the last level.
    #[error("the wildcard at byte {0} is misplaced; `*` is a whole level and `#` is the last level")]
    MisplacedWildcard(usize),
    /// Braces that do not enclose exactly one level with a name.
    #[error("the braces at byte {0} do not enclose a whole level; write `prefix.{{name}}.suffix`")]
    BadCapture(usize),
}

impl AddressError {
    const fn panic(self) -> ! {
        match self {
            Self::Empty => {
                panic!("the address is empty; write levels joined by dots, such as `calculator.add`")
            }
            Self::TooLong => panic!("the address is longer than 200 bytes"),
            Self::EmptyLevel => panic!("the address has an empty level; dots only separate levels"),
            Self::BadCharacter(_) => {
                panic!(
                    "the address has a character that is not allowed; levels are made of A-Z, a-z, 0-9, `_` and `-`"
                )
            }
            Self::Wildcard(_) => panic!("the address has a wildcard; only subscriptions take wildcards"),
            Self::MisplacedWildcard(_) => {
                panic!("the address has a misplaced wildcard; `*` is a whole level and `#` is the last level")
            }
            Self::BadCapture(_) => {
                panic!(
                    "the address has braces that do not enclose a whole level; write `prefix.{{name}}.suffix`"
                )
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Address,
    Pattern,
    Template,
}

/// Checks the grammar. One function for all three forms, `const` so that a bad literal fails the build.
const fn check(text: &str, form: Form) -> Result<(), AddressError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(AddressError::Empty);
    }
    if bytes.len() > MAX_LEN {
        return Err(AddressError::TooLong);
    }
    let mut start = 0;
    while start <= bytes.len() {
        let mut end = start;
        while end < bytes.len() && bytes[end] != b'.' {
            end += 1;
        }
        if let Err(error) = check_level(bytes, start, end, form) {
            return Err(error);
        }
        start = end + 1;
    }
    Ok(())
}

const fn check_level(bytes: &[u8], start: usize, end: usize, form: Form) -> Result<(), AddressError> {
    if start == end {
        return Err(AddressError::EmptyLevel);
    }
    let is_pattern = matches!(form, Form::Pattern);
    let first = bytes[start];
    if first == b'*' || first == b'#' {
        if !is_pattern {
            return Err(AddressError::Wildcard(start));
        }
        if end - start != 1 || (first == b'#' && end != bytes.len()) {
            return Err(AddressError::MisplacedWildcard(start));
        }
        return Ok(());
    }
    let (mut at, stop) = if first == b'{' && matches!(form, Form::Template) {
        if end - start < 3 || bytes[end - 1] != b'}' {
            return Err(AddressError::BadCapture(start));
        }
        (start + 1, end - 1)
    } else {
        (start, end)
    };
    while at < stop {
        let byte = bytes[at];
        if !(byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            return Err(match byte {
                b'*' | b'#' if is_pattern => AddressError::MisplacedWildcard(at),
                b'*' | b'#' => AddressError::Wildcard(at),
                b'{' | b'}' if matches!(form, Form::Template) => AddressError::BadCapture(at),
                _ => AddressError::BadCharacter(at),
            });
        }
        at += 1;
    }
    Ok(())
}

/// Text that is either part of the program or shared.
#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $form:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Text);

        impl $name {
            /// Takes a literal; a bad one in a constant fails the build.
            ///
            /// # Panics
            /// When `text` is outside the grammar. Use [`new`](Self::new) for text that is not a literal.
            #[must_use]
            pub const fn from_static(text: &'static str) -> Self {
                match check(text, $form) {
                    Ok(()) => Self(Text::Static(text)),
                    Err(error) => error.panic(),
                }
            }

            /// Checks and takes text that is known only at run time.
            ///
            /// # Errors
            /// [`AddressError`] says what is outside the grammar and where.
            pub fn new(text: impl AsRef<str>) -> Result<Self, AddressError> {
                let text = text.as_ref();
                check(text, $form)?;
                Ok(Self(Text::Shared(text.into())))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl std::str::FromStr for $name {
            type Err = AddressError;

            fn from_str(text: &str) -> Result<Self, AddressError> {
                Self::new(text)
            }
        }
    };
}

text_type! {
    /// Where a message goes: an RPC method or a topic, without wildcards.
    ///
    /// ```
    /// use commlib::Address;
    /// const ADD: Address = Address::from_static("calculator.add");
    /// assert_eq!(ADD.as_str(), "calculator.add");
    /// assert!(Address::new("calculator..add").is_err());
    /// ```
    Address, Form::Address
}

text_type! {
    /// What a subscription listens to: `*` is one level, a final `#` is any number of levels.
    ///
    /// ```
    /// use commlib::Pattern;
    /// let pattern = Pattern::from_static("sensors.*.front");
    /// assert!(pattern.matches("sensors.sonar.front"));
    /// assert!(!pattern.matches("sensors.front"));
    /// assert!(Pattern::from_static("sensors.#").matches("sensors"));
    /// ```
    Pattern, Form::Pattern
}

text_type! {
    /// A topic address with named levels, `sensors.sonar.{side}`.
    Template, Form::Template
}

impl From<Address> for Pattern {
    fn from(address: Address) -> Self {
        Self(address.0)
    }
}

impl Address {
    /// The address below a namespace.
    pub(crate) fn within(&self, namespace: Option<&Self>) -> Result<Self, AddressError> {
        match namespace {
            Some(namespace) => Self::new(format!("{namespace}.{self}")),
            None => Ok(self.clone()),
        }
    }

    /// What is left of an address below this one, when it is below it.
    pub(crate) fn strip<'a>(&self, address: &'a str) -> Option<&'a str> {
        address.strip_prefix(self.as_str())?.strip_prefix('.')
    }
}

impl Pattern {
    /// The pattern below a namespace.
    pub(crate) fn within(&self, namespace: Option<&Address>) -> Result<Self, AddressError> {
        match namespace {
            Some(namespace) => Self::new(format!("{namespace}.{self}")),
            None => Ok(self.clone()),
        }
    }

    /// Whether the pattern has no wildcard, so that it names one address.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.as_str().contains(['*', '#'])
    }

    /// Whether an address falls under the pattern. Text outside the address grammar is compared level by level too.
    #[must_use]
    pub fn matches(&self, address: &str) -> bool {
        if self.as_str() == address {
            return true;
        }
        let mut levels = address.split('.');
        for wanted in self.as_str().split('.') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                (_, None) => return false,
                ("*", Some(level)) if !level.is_empty() => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl Template {
    /// The address, if no level of it is left open.
    pub(crate) fn literal(&self) -> Option<Address> {
        // A template without braces is an address: the rest of the grammar is the same.
        (!self.as_str().contains('{')).then(|| Address(self.0.clone()))
    }

    /// The names in braces, from left to right.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('.').filter_map(capture_name)
    }

    /// The address with each capture replaced by a level, in order.
    ///
    /// # Errors
    /// When a level is outside the grammar, or the whole is too long.
    pub fn fill<L: AsRef<str>>(&self, levels: &[L]) -> Result<Address, AddressError> {
        if levels.is_empty() {
            return match self.literal() {
                Some(address) => Ok(address),
                // The braces are what is wrong with it.
                None => Address::new(self.as_str()),
            };
        }
        if let Some(level) = levels.iter().find(|level| level.as_ref().contains('.')) {
            return Err(AddressError::BadCharacter(level.as_ref().find('.').unwrap_or(0)));
        }
        Address::new(self.replace(levels.iter().map(AsRef::as_ref)))
    }

    /// The pattern with each capture replaced by a level, or by `*` where there is `None`.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn pattern<L: AsRef<str>>(&self, levels: &[Option<L>]) -> Result<Pattern, AddressError> {
        let mut filled = Vec::with_capacity(levels.len());
        for level in levels {
            match level {
                Some(level) => {
                    check_level(level.as_ref().as_bytes(), 0, level.as_ref().len(), Form::Address)?;
                    filled.push(level.as_ref());
                }
                None => filled.push("*"),
            }
        }
        Pattern::new(self.replace(filled.into_iter()))
    }

    /// The levels of an address that stand where the captures are, or `None` when it does not fit the template.
    #[must_use]
    pub fn extract(&self, address: &str) -> Option<Vec<String>> {
        if !self.as_str().contains('{') {
            return (self.as_str() == address).then(Vec::new);
        }
        let mut captured = Vec::new();
        let mut levels = address.split('.');
        for wanted in self.as_str().split('.') {
            let level = levels.next()?;
            match capture_name(wanted) {
                Some(_) if level.is_empty() => return None,
                Some(_) => captured.push(level.to_owned()),
                None if wanted == level => {}
                None => return None,
            }
        }
        levels.next().is_none().then_some(captured)
    }

    fn replace<'a>(&'a self, mut levels: impl Iterator<Item = &'a str>) -> String {
        let mut text = String::with_capacity(self.as_str().len() + 16);
        for (at, level) in self.as_str().split('.').enumerate() {
            if at > 0 {
                text.push('.');
            }
            // A missing level leaves an empty one behind, which the grammar check that follows refuses.
            text.push_str(if capture_name(level).is_some() {
                levels.next().unwrap_or_default()
            } else {
                level
            });
        }
        text
    }
}

fn capture_name(level: &str) -> Option<&str> {
    level.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, spelled out: levels are lists, `#` takes any rest.
    fn naive(pattern: &[&str], address: &[&str]) -> bool {
        match (pattern.first(), address.first()) {
            (Some(&"#"), _) => true,
            (None, None) => true,
            (Some(&"*"), Some(_)) => naive(&pattern[1..], &address[1..]),
            (Some(wanted), Some(level)) if wanted == level => naive(&pattern[1..], &address[1..]),
            _ => false,
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]", "[A-Za-z0-9_-]{1,6}"]
    }

    fn pattern() -> impl Strategy<Value = String> {
        (
            prop::collection::vec(prop_oneof![2 => level(), 1 => Just("*".to_owned())], 1..5),
            any::<bool>(),
        )
            .prop_map(|(mut levels, rest)| {
                if rest {
                    levels.push("#".to_owned());
                }
                levels.join(".")
            })
    }

    proptest! {
        #[test]
        fn matches_as_the_naive_matcher(pattern in pattern(), address in prop::collection::vec(level(), 1..6)) {
            let wanted = naive(&pattern.split('.').collect::<Vec<_>>(), &address.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&address.join(".")), wanted);
        }

        #[test]
        fn accepts_exactly_the_grammar(text in "[a-c.*#{}/ \u{0}é_-]{0,12}") {
            let legal = !text.is_empty()
                && text.split('.').all(|level| !level.is_empty() && level.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            prop_assert_eq!(Address::new(&text).is_ok(), legal);
        }

        #[test]
        fn what_a_template_fills_it_extracts(side in level(), room in level()) {
            let template = Template::from_static("a.{side}.b.{room}");
            let address = template.fill(&[&side, &room]).unwrap();
            prop_assert_eq!(template.extract(address.as_str()), Some(vec![side.clone(), room.clone()]));
            let pattern = template.pattern(&[Some(&side), None]).unwrap();
            prop_assert!(pattern.matches(address.as_str()));
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, error) in [
            ("", AddressError::Empty),
            (".a", AddressError::EmptyLevel),
            ("a.", AddressError::EmptyLevel),
            ("a..b", AddressError::EmptyLevel),
            ("a b", AddressError::BadCharacter(1)),
            ("a\r\n", AddressError::BadCharacter(1)),
            ("a.*", AddressError::Wildcard(2)),
            ("#", AddressError::Wildcard(0)),
            ("a.{x}", AddressError::BadCharacter(2)),
        ] {
            assert_eq!(Address::new(text), Err(error), "{text:?}");
        }
        assert_eq!(Address::new("a".repeat(201)), Err(AddressError::TooLong));
        assert!(Address::new("a".repeat(200)).is_ok());
        assert_eq!(Pattern::new("a.#.b"), Err(AddressError::MisplacedWildcard(2)));
        assert_eq!(Pattern::new("a.b*"), Err(AddressError::MisplacedWildcard(3)));
        assert_eq!(Template::new("a.{}"), Err(AddressError::BadCapture(2)));
        assert_eq!(Template::new("a.x{b}"), Err(AddressError::BadCapture(3)));
        assert_eq!(
            Template::from_static("a.{x}").fill(&["b.c"]),
            Err(AddressError::BadCharacter(1))
        );
        assert_eq!(
            Template::from_static("a.{x}").fill(&[""]),
            Err(AddressError::EmptyLevel)
        );
        assert_eq!(
            Template::from_static("{x}.a").fill(&[""]),
            Err(AddressError::EmptyLevel)
        );
    }
}
