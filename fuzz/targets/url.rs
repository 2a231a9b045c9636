//! Broker URLs: errors and Debug output never show a password, however it is written.

#![no_main]

use arbitrary::Arbitrary;
use commlib::BrokerUrl;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "Hunter2";

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// A scheme of ours, or the text itself is the URL.
    scheme: Option<u8>,
    user: &'a str,
    before: &'a str,
    after: &'a str,
    rest: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    let Input {
        user,
        before,
        after,
        rest,
        ..
    } = input;
    // What comes after the last `@` is no part of the password, nor is what comes before the first colon.
    let text = match input.scheme {
        None => rest.to_owned(),
        Some(scheme) => {
            let schemes = ["redis", "rediss", "amqp", "amqps", "redis+unix", "memory", "mqtt"];
            let scheme = schemes[usize::from(scheme) % schemes.len()];
            format!("{scheme}://{user}:{before}{SECRET}{after}@{rest}")
        }
    };
    let shown = match BrokerUrl::parse(&text) {
        Ok(url) => format!("{url:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    let elsewhere = |part: &str| part.to_ascii_lowercase().contains(&SECRET.to_ascii_lowercase());
    // A socket's URL has no user, and what comes after a `/` is its path.
    let is_path = text.starts_with("redis+unix:") && user.contains('/');
    if input.scheme.is_some() && !is_path && !elsewhere(user) && !elsewhere(rest) {
        assert!(!elsewhere(&shown), "{shown}");
    }
});
