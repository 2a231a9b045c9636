//! Where requests are answered: nowhere but at addresses of the forms that requesters own.

#![no_main]

use bytes::Bytes;
use commlib::__fuzz;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str, Option<&str>)| {
    let (form, rest, exchange) = input;
    let begin = [
        "",
        "commlib:reply:",
        "rpc-",
        "amq.rabbitmq.reply-to.",
        "commlib.reply.",
    ];
    let address = format!("{}{rest}", begin[usize::from(form) % begin.len()]);
    assert_eq!(
        __fuzz::redis::is_reply_address(&address),
        on_redis(&address),
        "{address}"
    );

    let Ok(short) = ShortString::try_new(address.as_str()) else {
        return;
    };
    let mut headers = FieldTable::default();
    if let Some(exchange) = exchange {
        let value = AMQPValue::LongString(exchange.into());
        headers.insert(ShortString::from("commlib-reply-exchange"), value);
    }
    let properties = BasicProperties::default()
        .with_reply_to(short)
        .with_headers(headers);
    let asked = __fuzz::amqp::read_request(&properties, Bytes::from_static(b"{}"), 100);
    let wanted = on_amqp(&address, exchange).map(|exchange| (exchange, address));
    assert_eq!(asked.refused, wanted.is_none());
    assert_eq!(asked.route, wanted);
});

fn on_redis(list: &str) -> bool {
    let random = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if let Some(id) = list.strip_prefix("commlib:reply:") {
        return id.chars().count() == 24 && id.chars().all(random);
    }
    let Some(id) = list.strip_prefix("rpc-") else {
        return false;
    };
    id.chars().count() == 32 && id.chars().all(|c| "0123456789abcdef".contains(c))
}

fn on_amqp(key: &str, exchange: Option<&str>) -> Option<&'static str> {
    let random = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if let Some(token) = key.strip_prefix("amq.rabbitmq.reply-to.") {
        let fine = !token.is_empty() && token.chars().all(|c| random(c) || "+/=.".contains(c));
        return (fine && exchange.is_none()).then_some("");
    }
    let id = key.strip_prefix("commlib.reply.")?;
    match exchange {
        _ if id.chars().count() != 24 || !id.chars().all(random) => None,
        None => Some(""),
        Some("commlib.reply") => Some("commlib.reply"),
        Some(_) => None,
    }
}
