//! The grammar and the matcher of addresses, the slow and plain way.

/// Whether a text is an address: one or more levels, 200 bytes at most.
pub fn is_address(text: &str) -> bool {
    text.len() <= 200 && text.split('.').all(is_level)
}

/// Whether a text is a pattern: some levels may be `*`, the last one `#`.
pub fn is_pattern(text: &str) -> bool {
    let levels: Vec<&str> = text.split('.').collect();
    let last = levels.len() - 1;
    let fits =
        |(at, level): (usize, &&str)| *level == "*" || (*level == "#" && at == last) || is_level(level);
    text.len() <= 200 && levels.iter().enumerate().all(fits)
}

fn is_level(level: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !level.is_empty() && level.chars().all(allowed)
}

/// Whether levels fall under those of a pattern.
pub fn matches(pattern: &[&str], levels: &[&str]) -> bool {
    match (pattern, levels) {
        ([], []) | (["#"], _) => true,
        ([wanted, pattern @ ..], [level, levels @ ..]) => {
            (wanted == level || (*wanted == "*" && !level.is_empty())) && matches(pattern, levels)
        }
        _ => false,
    }
}
