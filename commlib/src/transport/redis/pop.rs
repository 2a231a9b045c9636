//! The commands that take requests from several lists, and what they bring.

use redis::ServerError;

use super::inbox::BLOCK_SECONDS;
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};

/// Appends a pop of as many items as there are permits, at least one; how many answers it has.
///
/// It blocks until there is an item in one of the lists. Where several of them are `busy`, a second command looks at
/// them the other way round, so that what is in one of them does not hold up what is in another.
pub(super) fn encode(
    keys: &[&str],
    permits: usize,
    busy: bool,
    modern: bool,
    scripts: &Scripts,
    out: &mut Vec<u8>,
) -> usize {
    if modern {
        let several = busy && keys.len() > 1 && permits > 1;
        let first = if several { permits.div_ceil(2) } else { permits };
        resp::begin(out, 6 + keys.len());
        resp::word(out, b"BLMPOP");
        resp::word(out, BLOCK_SECONDS.as_bytes());
        lists(out, keys.iter().copied(), first);
        if !several {
            return 1;
        }
        resp::begin(out, 5 + keys.len());
        resp::word(out, b"LMPOP");
        lists(out, keys.iter().rev().copied(), permits - first);
        return 2;
    }
    resp::begin(out, 2 + keys.len());
    resp::word(out, b"BLPOP");
    for key in keys {
        resp::word(out, key.as_bytes());
    }
    resp::word(out, BLOCK_SECONDS.as_bytes());
    if permits < 2 {
        return 1;
    }
    // What else is there at once, as far as the permits reach.
    let more = itoa::Buffer::new().format(permits - 1).to_owned();
    match keys {
        [key] => resp::command(out, &[b"LPOP", key.as_bytes(), more.as_bytes()]),
        keys => {
            scripts.begin(out, Script::Drain, keys, 1);
            resp::word(out, more.as_bytes());
        }
    }
    2
}

fn lists<'a>(out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = &'a str>, count: usize) {
    let mut digits = itoa::Buffer::new();
    resp::word(out, digits.format(keys.len()).as_bytes());
    for key in keys {
        resp::word(out, key.as_bytes());
    }
    resp::word(out, b"LEFT");
    resp::word(out, b"COUNT");
    resp::word(out, digits.format(count).as_bytes());
}

/// Which addresses requests come from.
#[derive(Default)]
pub(super) struct Traffic {
    latest: Option<usize>,
    mixed: bool,
}

impl Traffic {
    /// Whether the last pop brought requests from another address than the one before, or from several.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// A pop brought requests from these addresses.
    pub(super) fn see(&mut self, addresses: impl Iterator<Item = usize>) {
        let mut mixed = None;
        for address in addresses {
            let other = self.latest.is_some_and(|latest| latest != address);
            mixed = Some(mixed.unwrap_or(false) || other);
            self.latest = Some(address);
        }
        // A pop that brought nothing tells nothing.
        self.mixed = mixed.unwrap_or(self.mixed);
    }
}

/// What a pop brought.
#[derive(Default)]
pub(super) struct Popped {
    /// Items, each after the place of its list among the keys.
    pub(super) items: Vec<(usize, Value)>,
    /// Nothing came in time, so all lists were empty.
    pub(super) nothing: bool,
    /// What the broker said instead.
    pub(super) error: Option<ServerError>,
}

/// Reads the answers of a pop; nothing if they are answers to something else.
pub(super) fn decode(answers: Vec<Value>, keys: &[&str], modern: bool) -> Option<Popped> {
    let mut popped = Popped::default();
    let place = |list: &Value| {
        let list = list.as_str()?;
        keys.iter().position(|key| *key == list)
    };
    for (index, answer) in answers.into_iter().enumerate() {
        let parts = match answer {
            Value::Nil => {
                popped.nothing |= index == 0;
                continue;
            }
            Value::Error(error) => {
                popped.error.get_or_insert(error);
                continue;
            }
            Value::Array(parts) => parts,
            _ => return None,
        };
        let mut parts = parts.into_iter();
        if modern {
            if let (Some(list), Some(Value::Array(items))) = (parts.next(), parts.next()) {
                let place = place(&list)?;
                popped.items.extend(items.into_iter().map(|item| (place, item)));
            }
        } else if index == 0 {
            if let (Some(list), Some(item)) = (parts.next(), parts.next()) {
                popped.items.push((place(&list)?, item));
            }
        } else if keys.len() == 1 {
            popped.items.extend(parts.map(|item| (0, item)));
        } else {
            // Of the script: each item after the number of its list.
            while let (Some(list), Some(item)) = (parts.next(), parts.next()) {
                let place = usize::try_from(list.as_int()?).ok()?.checked_sub(1)?;
                popped.items.push((place, item));
            }
        }
    }
    Some(popped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bulk(text.to_owned().into())
    }

    fn command(keys: &[&str], permits: usize, busy: bool, modern: bool) -> (String, usize) {
        let mut out = Vec::new();
        let mut scripts = Scripts::new();
        scripts.loaded(&vec![text(&"x".repeat(40)); Scripts::COUNT]);
        let answers = encode(keys, permits, busy, modern, &scripts, &mut out);
        let text = String::from_utf8(out).unwrap();
        let words = text
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']) && line.len() < 40);
        (words.collect::<Vec<_>>().join(" ").trim_end().to_owned(), answers)
    }

    #[test]
    fn takes_no_more_than_there_are_permits() {
        let pop = |keys: &[&str], permits, modern, words: &str, answers| {
            assert_eq!(command(keys, permits, true, modern), (words.to_owned(), answers));
        };
        let quiet = command(&["a", "b"], 5, false, true);
        assert_eq!(quiet, ("BLMPOP 2 2 a b LEFT COUNT 5".to_owned(), 1));
        pop(&["a"], 5, true, "BLMPOP 2 1 a LEFT COUNT 5", 1);
        pop(&["a", "b"], 1, true, "BLMPOP 2 2 a b LEFT COUNT 1", 1);
        pop(
            &["a", "b"],
            5,
            true,
            "BLMPOP 2 2 a b LEFT COUNT 3 LMPOP 2 b a LEFT COUNT 2",
            2,
        );
        pop(&["a"], 1, false, "BLPOP a 2", 1);
        pop(&["a"], 5, false, "BLPOP a 2 LPOP a 4", 2);
        pop(&["a", "b"], 5, false, "BLPOP a b 2 EVALSHA 2 a b 4", 2);
    }

    #[test]
    fn traffic_is_mixed_when_requests_come_from_several_addresses() {
        let mut traffic = Traffic::default();
        let mut see = |addresses: &[usize]| {
            traffic.see(addresses.iter().copied());
            traffic.is_mixed()
        };
        assert!(!see(&[1, 1]));
        assert!(!see(&[1]));
        assert!(see(&[2, 2]), "another one than before");
        assert!(see(&[]), "nothing new");
        assert!(!see(&[2]));
        assert!(see(&[2, 1]), "two at once");
    }

    #[test]
    fn knows_where_items_come_from() {
        let list = |name: &str, items: &[&str]| {
            Value::Array(vec![
                text(name),
                Value::Array(items.iter().map(|item| text(item)).collect()),
            ])
        };
        let items = |answers, modern| {
            let popped = decode(answers, &["a", "b"], modern).unwrap();
            let places = popped.items.into_iter();
            places
                .map(|(place, item)| format!("{place}{}", item.as_str().unwrap()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            items(vec![list("b", &["x", "y"]), list("a", &["z"])], true),
            "1x 1y 0z"
        );
        assert_eq!(items(vec![list("a", &["x"]), Value::Nil], true), "0x");
        let pair = Value::Array(vec![text("b"), text("x")]);
        let drained = Value::Array(vec![Value::Int(1), text("y"), Value::Int(2), text("z")]);
        assert_eq!(items(vec![pair, drained], false), "1x 0y 1z");
        assert!(decode(vec![list("c", &["x"])], &["a"], true).is_none());
        assert!(
            decode(vec![Value::Nil, Value::Nil], &["a"], true)
                .unwrap()
                .nothing
        );
    }
}
