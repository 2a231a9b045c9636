//! Broker URLs: one parser for all schemes, strict about what it does not know, silent about secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::error::ConnectError;

/// The schemes that exist, whether built in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Memory,
    Redis,
    Rediss,
    RedisUnix,
    Amqp,
    Amqps,
}

impl Scheme {
    const ALL: [Self; 6] = [
        Self::Memory,
        Self::Redis,
        Self::Rediss,
        Self::RedisUnix,
        Self::Amqp,
        Self::Amqps,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Rediss => "rediss",
            Self::RedisUnix => "redis+unix",
            Self::Amqp => "amqp",
            Self::Amqps => "amqps",
        }
    }

    #[cfg(not(all(feature = "memory", feature = "redis", feature = "amqp")))]
    pub(crate) const fn feature(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis | Self::Rediss | Self::RedisUnix => "redis",
            Self::Amqp | Self::Amqps => "amqp",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Memory | Self::RedisUnix => 0,
            Self::Redis | Self::Rediss => 6379,
            Self::Amqp => 5672,
            Self::Amqps => 5671,
        }
    }

    const fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Memory => &["codec", "compression"],
            Self::Redis | Self::RedisUnix => &["codec", "compression", "dialect"],
            Self::Rediss => &["codec", "compression", "dialect", "ca", "cert", "key"],
            Self::Amqp => &["codec", "compression", "dialect", "reply", "heartbeat"],
            Self::Amqps => &[
                "codec",
                "compression",
                "dialect",
                "reply",
                "heartbeat",
                "ca",
                "cert",
                "key",
            ],
        }
    }
}

const NO_SOCKET: &str = "it names no socket: write `redis+unix:///path/to/redis.sock`";

/// A password. It prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    #[cfg(any(test, feature = "redis", feature = "amqp"))]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A parsed broker URL.
///
/// | URL | means |
/// |---|---|
/// | `memory://name` | the in-process bus of that name; without a name, the default one |
/// | `redis://[user[:password]@]host[:port][/db]` | Redis, port 6379, database 0 |
/// | `rediss://…` | the same over TLS |
/// | `redis+unix:///path/to.sock[?db=1]` | Redis over a Unix socket |
/// | `amqp://[user[:password]@]host[:port][/vhost]` | RabbitMQ, port 5672, virtual host `/`, user and password `guest` |
/// | `amqps://…` | the same over TLS, port 5671 |
///
/// User, password and virtual host are percent-decoded. Settings after `?`: `codec=msgpack` for clients and publishers
/// that write MessagePack ([`NodeBuilder::codec`](crate::NodeBuilder::codec)); `compression=zlib` or `compression=zstd`
/// for those that compress ([`NodeBuilder::compression`](crate::NodeBuilder::compression)); `dialect=commlib-py` for clients and
/// publishers whose peers run commlib-py; on AMQP `reply=queue` for a reply queue in place of Direct Reply-to and
/// `heartbeat=SECONDS`; over TLS `ca=FILE` for the authority to trust in place of those of the system, and `cert=FILE&key=FILE`
/// for a client certificate, all as PEM ([`Tls`](crate::Tls)). Unknown settings and fragments are errors. `Debug` and errors never show the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<Secret>,
    path: String,
    settings: BTreeMap<String, String>,
}

impl BrokerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`ConnectError::Url`] says what is wrong, without repeating the URL.
    pub fn parse(text: &str) -> Result<Self, ConnectError> {
        let text = text.trim();
        // The parser leaves them out, so that something else would be read than was written.
        if text.contains(char::is_control) {
            return Err(ConnectError::Url(
                "it has a control character, for example a line break; leave it out, or write it as `%0a`"
                    .into(),
            ));
        }
        let url = ::url::Url::parse(text).map_err(|error| {
            ConnectError::Url(format!(
                "it is not a URL ({error}); write for example `redis://127.0.0.1`"
            ))
        })?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|scheme| scheme.as_str() == url.scheme())
            .ok_or_else(|| {
                let known: Vec<_> = Scheme::ALL
                    .iter()
                    .map(|scheme| format!("{}://", scheme.as_str()))
                    .collect();
                ConnectError::Url(format!(
                    "unknown scheme `{}`; use one of {}",
                    url.scheme(),
                    known.join(", ")
                ))
            })?;
        if url.fragment().is_some() {
            return Err(ConnectError::Url(
                "it has a fragment (`#…`), which means nothing here; write `#` in a password as `%23`".into(),
            ));
        }
        // Of a password with a `/` or `?` in it, the rest would be taken for a path or a setting, and be shown.
        let at = |part: &str| part.contains('@');
        let host_of_socket = |(_, rest): (&str, &str)| scheme == Scheme::RedisUnix && !rest.starts_with('/');
        if text.split_once("://").is_some_and(host_of_socket) {
            return Err(ConnectError::Url(NO_SOCKET.into()));
        }
        if url.query().is_some_and(at) || (scheme != Scheme::RedisUnix && at(url.path())) {
            return Err(ConnectError::Url(
                "it has an `@` after the host; write it as `%40`, and in a password `/` as `%2f` and `?` as `%3f`".into(),
            ));
        }
        let decode = |what: &str, text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| ConnectError::Url(format!("the {what} is not UTF-8 after percent-decoding")))
        };
        let user = match url.username() {
            "" => None,
            user => Some(decode("user", user)?),
        };
        let password = url
            .password()
            .map(|password| decode("password", password))
            .transpose()?
            .map(Secret);
        let host = match url.host() {
            Some(::url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => decode("host", &host.to_string())?,
            None => String::new(),
        };
        let raw_path = url.path();
        let path = match scheme {
            Scheme::RedisUnix => decode("path", raw_path)?,
            _ => decode("path", raw_path.strip_prefix('/').unwrap_or(raw_path))?,
        };
        let mut parsed = Self {
            scheme,
            host,
            port: url.port().unwrap_or(scheme.default_port()),
            user,
            password,
            path,
            settings: BTreeMap::new(),
        };
        for (name, value) in url.query_pairs() {
            parsed.set(&name, &value)?;
        }
        parsed.check(raw_path)?;
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ConnectError> {
        let mut allowed = self.scheme.settings().to_vec();
        if self.scheme == Scheme::RedisUnix {
            allowed.push("db");
        }
        if !allowed.contains(&name) {
            let scheme = self.scheme.as_str();
            let takes = if allowed.is_empty() {
                "none".to_owned()
            } else {
                allowed.join(", ")
            };
            return Err(ConnectError::Url(format!(
                "unknown setting `{name}`; {scheme}:// takes {takes}"
            )));
        }
        let fine = match name {
            "dialect" => matches!(value, "native" | "commlib-py"),
            "codec" => matches!(value, "json" | "msgpack"),
            "compression" => matches!(value, "zlib" | "zstd"),
            "reply" => matches!(value, "direct" | "queue"),
            "heartbeat" => value.parse::<u16>().is_ok_and(|seconds| seconds > 0),
            "ca" | "cert" | "key" => !value.is_empty(),
            _ => value.parse::<i64>().is_ok_and(|db| db >= 0),
        };
        if !fine {
            let wanted = match name {
                "dialect" => "`native` or `commlib-py`",
                "codec" => "`json` or `msgpack`",
                "compression" => "`zlib` or `zstd`",
                "reply" => "`direct` or `queue`",
                "heartbeat" => "a number of seconds from 1 to 65535",
                "ca" | "cert" | "key" => "the path of a file",
                _ => "the number of a database",
            };
            return Err(ConnectError::Url(format!("the setting `{name}` takes {wanted}")));
        }
        if self.settings.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(ConnectError::Url(format!("the setting `{name}` is given twice")));
        }
        Ok(())
    }

    fn check(&self, raw_path: &str) -> Result<(), ConnectError> {
        let fail = |text: &str| Err(ConnectError::Url(text.to_owned()));
        if self.setting("cert").is_some() != self.setting("key").is_some() {
            return fail("a client certificate needs both settings, `cert` and `key`");
        }
        match self.scheme {
            Scheme::Memory if !self.path.is_empty() => {
                fail("a memory URL is only a name: write `memory://name`")
            }
            Scheme::RedisUnix if self.path.len() < 2 || !self.host.is_empty() => fail(NO_SOCKET),
            Scheme::Redis | Scheme::Rediss
                if !self.path.is_empty() && self.path.parse::<i64>().is_ok_and(|db| db >= 0).eq(&false) =>
            {
                fail(
                    "the path of a Redis URL is the number of a database: write for example `redis://host/0`",
                )
            }
            Scheme::Amqp | Scheme::Amqps if raw_path.trim_start_matches('/').contains('/') => {
                fail("the virtual host has a `/`; write it as `%2f`")
            }
            Scheme::Redis | Scheme::Rediss | Scheme::Amqp | Scheme::Amqps if self.host.is_empty() => {
                fail("it names no host")
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn kind(&self) -> Scheme {
        self.scheme
    }

    /// The scheme: `memory`, `redis`, `rediss`, `redis+unix`, `amqp` or `amqps`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.scheme.as_str()
    }

    /// The host, an IPv6 address without brackets; for `memory://` the name of the bus.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, given or usual.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The user, if given.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    #[cfg(any(feature = "redis", feature = "amqp"))]
    pub(crate) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The path: a database number, a virtual host (empty where none is given) or a socket's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A setting after `?`.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether others may read what is said to the broker: it is not on this machine, and there is no TLS.
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        let host = self.host.to_ascii_lowercase();
        let is_local = host == "localhost"
            || host.ends_with(".localhost")
            || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        matches!(self.scheme, Scheme::Redis | Scheme::Amqp) && !is_local
    }

    /// Host and port, or the socket's path, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        match self.scheme {
            Scheme::Memory => format!("memory://{}", self.host),
            Scheme::RedisUnix => self.path.clone(),
            _ if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_connections_to_elsewhere_can_be_read_on_the_way() {
        let readable = |url: &str| BrokerUrl::parse(url).unwrap().is_readable_on_the_way();
        for url in [
            "redis://h",
            "amqp://10.0.0.1",
            "redis://[2001:db8::1]",
            "amqp://localhost.example",
        ] {
            assert!(readable(url), "{url}");
        }
        for url in [
            "rediss://h",
            "amqps://10.0.0.1",
            "memory://h",
            "redis+unix:///run/redis.sock",
            "redis://localhost",
            "amqp://127.0.0.7",
            "redis://[::1]:7",
            "amqp://A.LocalHost",
        ] {
            assert!(!readable(url), "{url}");
        }
    }

    fn error(text: &str) -> String {
        match BrokerUrl::parse(text) {
            Err(error) => error.to_string(),
            Ok(url) => panic!("{text} was taken as {url:?}"),
        }
    }

    #[test]
    fn reads_every_part() {
        let url = BrokerUrl::parse("amqp://me:p%40ss@[::1]:5673/%2fprod?reply=queue&heartbeat=5").unwrap();
        assert_eq!(
            (url.user(), url.host(), url.port(), url.path()),
            (Some("me"), "::1", 5673, "/prod")
        );
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p@ss"));
        assert_eq!(url.setting("reply"), Some("queue"));
        assert_eq!(url.address(), "[::1]:5673");
        let url = BrokerUrl::parse("redis://h/3").unwrap();
        assert_eq!((url.port(), url.path()), (6379, "3"));
        let url = BrokerUrl::parse("redis+unix:///run/r.sock?db=1").unwrap();
        assert_eq!((url.path(), url.setting("db")), ("/run/r.sock", Some("1")));
        assert_eq!(BrokerUrl::parse("memory://").unwrap().host(), "");
        assert_eq!(BrokerUrl::parse(" redis://h/3\n").unwrap().path(), "3");
        assert_eq!(BrokerUrl::parse("memory://bus1").unwrap().host(), "bus1");
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(error("localhost").contains("not a URL"));
        assert!(error("mqtt://h").contains("unknown scheme `mqtt`"));
        assert!(error("redis://h#insecure").contains("fragment"));
        assert!(error("redis://h/zero").contains("number of a database"));
        assert!(error("redis://h?timeout=1").contains("unknown setting `timeout`"));
        assert!(error("redis://h?dialect=python").contains("`native` or `commlib-py`"));
        assert!(error("amqp://h?heartbeat=0").contains("from 1 to 65535"));
        assert!(error("amqp://h/a/b").contains("%2f"));
        assert!(error("redis+unix://").contains("names no socket"));
        assert!(error("redis+unix://:@/run/r.sock").contains("names no socket"));
        assert!(error("redis+unix://h/run/r.sock").contains("names no socket"));
        assert!(error("redis://h\n/1").contains("control character"));
        assert!(error("rediss://h?cert=a.pem").contains("both settings"));
        assert!(error("amqps://h?ca=").contains("path of a file"));
        // What would be a secure connection by its settings is never a plain one.
        assert!(error("redis://h?ca=ca.pem").contains("unknown setting `ca`"));
        assert!(error("amqp://h?ca=ca.pem").contains("unknown setting `ca`"));
    }

    #[test]
    fn never_shows_the_password() {
        let url = BrokerUrl::parse("redis://u:canary@h").unwrap();
        assert!(!format!("{url:?}").contains("canary"));
        for text in [
            "redis://u:canary@h:99999",
            "redis://u:canary@h?x=1",
            "nope://u:canary@h",
            "redis://u:1?canary@h",
            "amqp://u:1/canary@h",
            "amqp://u:1?canary=1&x@h",
            "redis+unix://u:1?canary@h",
            "redis+unix://:@/canary@",
            "redis+unix://:\n@/canary@h",
            "redis://u:canary@h/x#y",
        ] {
            assert!(!error(text).contains("canary"), "{text}");
        }
    }
}
