//! MessagePack by its specification, with recursion: what is left after the first value.

/// The deepest nesting of arrays and maps that is allowed.
const MAX_DEPTH: usize = 128;

/// Whether bytes are one value and nothing else.
pub fn is_value(bytes: &[u8]) -> bool {
    value(bytes, 0).is_some_and(<[u8]>::is_empty)
}

fn value(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first()?;
    match first {
        // Fixed integers, nil, booleans.
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Some(rest),
        0x80..=0x8f => values(rest, 2 * u64::from(first & 15), depth),
        0x90..=0x9f => values(rest, u64::from(first & 15), depth),
        0xa0..=0xbf => rest.get(usize::from(first & 31)..),
        0xc1 => None,
        // Byte strings, extensions, texts.
        0xc4 | 0xd9 => string(rest, 1, 0),
        0xc5 | 0xda => string(rest, 2, 0),
        0xc6 | 0xdb => string(rest, 4, 0),
        0xc7 => string(rest, 1, 1),
        0xc8 => string(rest, 2, 1),
        0xc9 => string(rest, 4, 1),
        // Floats and integers.
        0xcc | 0xd0 => rest.get(1..),
        0xcd | 0xd1 => rest.get(2..),
        0xca | 0xce | 0xd2 => rest.get(4..),
        0xcb | 0xcf | 0xd3 => rest.get(8..),
        // Extensions of 1, 2, 4, 8 and 16 bytes after their type.
        0xd4 => rest.get(2..),
        0xd5 => rest.get(3..),
        0xd6 => rest.get(5..),
        0xd7 => rest.get(9..),
        0xd8 => rest.get(17..),
        0xdc => number(rest, 2).and_then(|(count, rest)| values(rest, count, depth)),
        0xdd => number(rest, 4).and_then(|(count, rest)| values(rest, count, depth)),
        0xde => number(rest, 2).and_then(|(count, rest)| values(rest, 2 * count, depth)),
        0xdf => number(rest, 4).and_then(|(count, rest)| values(rest, 2 * count, depth)),
    }
}

fn values(mut bytes: &[u8], count: u64, depth: usize) -> Option<&[u8]> {
    if count > 0 && depth == MAX_DEPTH {
        return None;
    }
    for _ in 0..count {
        bytes = value(bytes, depth + 1)?;
    }
    Some(bytes)
}

fn string(bytes: &[u8], digits: usize, more: usize) -> Option<&[u8]> {
    let (length, rest) = number(bytes, digits)?;
    rest.get(usize::try_from(length).ok()?.checked_add(more)?..)
}

fn number(bytes: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_at_checked(digits)?;
    Some((
        number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        rest,
    ))
}
