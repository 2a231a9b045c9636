//! Takes URLs apart, as far as brokers need: `scheme://[user[:password]@][host][:port][path][?query]`.
//!
//! For hosts of brokers there is no more to know: the schemes are none of the web's, so that the URL Standard, too, takes
//! their hosts as they are. A general parser comes with tables for international names and the rules of browsers, which
//! would be a twentieth of a small program.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The parts of a URL, not decoded but for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// In lower case.
    pub(super) scheme: String,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    /// An IPv6 address without brackets; empty where there is none.
    pub(super) host: Cow<'a, str>,
    pub(super) port: Option<u16>,
    /// With its `/`.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) has_fragment: bool,
}

/// What no host has in it. What a host has instead is percent-encoded.
const NOT_IN_HOSTS: &[char] = &[' ', '"', '<', '>', '[', '\\', ']', '^', '`', '{', '|', '}', ':'];

impl<'a> Parts<'a> {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong, without a word of the URL.
    pub(super) fn of(text: &'a str) -> Result<Self, &'static str> {
        let text = text.trim_matches(|c: char| c <= ' ');
        if text.contains(|c: char| c.is_ascii_control()) {
            return Err("it has a control character in it");
        }
        let (scheme, rest) = text.split_once(':').ok_or("there is no scheme before a `:`")?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(fine) {
            return Err("what is before the `:` is no scheme");
        }
        let rest = rest
            .strip_prefix("//")
            .ok_or("there is no `//` after the scheme")?;
        let (rest, has_fragment) = match rest.split_once('#') {
            Some((rest, _)) => (rest, true),
            None => (rest, false),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (given(user), given(password)),
            None => (None, None),
        };
        let (host, port) = host_and_port(place)?;
        // Nor a `:` alone: what follows it may be the end of a login.
        if host.is_empty() && !authority.is_empty() {
            return Err("there is no host");
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            password,
            host,
            port,
            path,
            query,
            has_fragment,
        })
    }

    /// The settings after `?`, decoded.
    pub(super) fn settings(&self) -> impl Iterator<Item = (String, String)> + use<'a> {
        let pairs = self.query.unwrap_or_default().split('&');
        pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form(name), form(value))
        })
    }
}

fn given(part: &str) -> Option<&str> {
    Some(part).filter(|part| !part.is_empty())
}

fn host_and_port(place: &str) -> Result<(Cow<'_, str>, Option<u16>), &'static str> {
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed
                .split_once(']')
                .ok_or("the `[` of the host is not closed")?;
            let address: Ipv6Addr = address
                .parse()
                .map_err(|_| "there is no IPv6 address in the brackets")?;
            let port = match port.strip_prefix(':') {
                None if !port.is_empty() => return Err("there is something between the host and its port"),
                port => port,
            };
            (Cow::Owned(address.to_string()), port)
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) => (Cow::Borrowed(host), Some(port)),
            None => (Cow::Borrowed(place), None),
        },
    };
    if matches!(host, Cow::Borrowed(_)) && host.contains(NOT_IN_HOSTS) {
        return Err("the host has a character in it that no host has; put an IPv6 address in brackets");
    }
    let port = match port {
        None | Some("") => None,
        // Not with a sign, which numbers may have.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| "the port is over 65535")?)
        }
        Some(_) => return Err("the port is no number"),
    };
    Ok((host, port))
}

/// As forms are encoded, where `+` is a space.
fn form(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text)
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn says_what_is_wrong() {
        for (text, word) in [
            ("localhost", "scheme"),
            ("", "scheme"),
            ("1redis://h", "no scheme"),
            ("localhost:6379", "`//`"),
            ("redis://h:66000", "65535"),
            ("redis://h:+1", "no number"),
            ("redis://h:x", "no number"),
            ("redis://[::1", "not closed"),
            ("redis://[::x]", "IPv6"),
            ("redis://[::1]6379", "between"),
            ("redis://::1", "brackets"),
            ("redis://u:p@", "no host"),
            ("redis://:6379", "no host"),
            ("redis+unix://:/canary@", "no host"),
            ("redis://a b", "character"),
            ("redis://h\n/1", "control"),
        ] {
            let error = Parts::of(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_at_ends_the_password() {
        let parts = Parts::of(" redis://u@x:p:q@w@h:/?a=b+c%26&&d#").unwrap();
        assert_eq!((parts.user, parts.password), (Some("u@x"), Some("p:q@w")));
        assert_eq!((&*parts.host, parts.port, parts.path), ("h", None, "/"));
        assert!(parts.has_fragment);
        let settings: Vec<_> = parts.settings().collect();
        assert_eq!(
            settings,
            [("a".into(), "b c&".into()), ("d".into(), String::new())]
        );
    }

    fn decoded(text: &str) -> String {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    }

    proptest! {
        /// The crate `url` is what users know from elsewhere.
        #[test]
        fn takes_apart_what_the_url_standard_does_and_in_the_same_way(
            text in "(redis|AMQP|redis\\+unix)://([a-z%41é:@]{0,6}@)?([a-zA-Z0-9.%_-]{0,5}|\\[::1?\\]|é)(:[0-9]{0,5})?(/[a-zé0-9%/:@]{0,6})?(\\?[a-z=&+%2]{0,9})?(#x?)?"
        ) {
            match (Parts::of(&text), url::Url::parse(&text)) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(&ours.scheme, theirs.scheme());
                    prop_assert_eq!(decoded(ours.user.unwrap_or_default()), decoded(theirs.username()));
                    prop_assert_eq!(ours.password.map(decoded), theirs.password().map(decoded));
                    let host = match theirs.host() {
                        Some(url::Host::Ipv6(address)) => address.to_string(),
                        Some(host) => decoded(&host.to_string()),
                        None => String::new(),
                    };
                    prop_assert_eq!(decoded(&ours.host), host);
                    prop_assert_eq!(ours.port, theirs.port());
                    prop_assert_eq!(decoded(ours.path), decoded(theirs.path()));
                    let settings: Vec<_> = theirs.query_pairs().into_owned().collect();
                    prop_assert_eq!(ours.settings().collect::<Vec<_>>(), settings);
                    prop_assert_eq!(ours.has_fragment, theirs.fragment().is_some());
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{text}: {ours:?}, {theirs:?}"),
            }
        }
    }
}
