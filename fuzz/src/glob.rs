//! Redis globs, from the documentation of `PSUBSCRIBE` and `KEYS`: `?` is one character, `*` any number, `[ae]` one of
//! these, `[^e]` one that is not, `[a-b]` one of a range, and a backslash takes away the meaning of what follows.

/// Whether a text falls under a glob.
pub fn matches(glob: &[u8], text: &[u8]) -> bool {
    match glob {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        [b'?', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let (class, rest) = (&rest[..end], &rest[end + 1..]);
            let Some((first, text)) = text.split_first() else {
                return false;
            };
            let (class, wanted) = match class {
                [b'^', class @ ..] => (class, false),
                class => (class, true),
            };
            in_class(class, *first) == wanted && matches(rest, text)
        }
        [b'\\', escaped, rest @ ..] => text.first() == Some(escaped) && matches(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [] => false,
        [from, b'-', to, rest @ ..] => (*from..=*to).contains(&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
    }
}
