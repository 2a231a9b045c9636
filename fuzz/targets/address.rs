//! Addresses, patterns and templates against a plain second implementation.

#![no_main]

use commlib::{Address, Pattern, Template};
use commlib_fuzz::levels;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, Vec<&str>)| {
    let (first, second, values) = input;
    assert_eq!(Address::new(second).is_ok(), levels::is_address(second));
    assert_eq!(Pattern::new(first).is_ok(), levels::is_pattern(first));
    if let Ok(pattern) = Pattern::new(first) {
        let split = |text| str::split(text, '.').collect::<Vec<_>>();
        // Text that is no address is compared too: brokers deliver such channels.
        assert_eq!(
            pattern.matches(second),
            levels::matches(&split(first), &split(second))
        );
        assert_eq!(pattern.is_literal(), Address::new(first).is_ok());
        assert!(!pattern.is_literal() || pattern.matches(first));
    }
    let Ok(template) = Template::new(first) else {
        return;
    };
    let captures = template.captures().count();
    if let Some(captured) = template.extract(second) {
        assert_eq!(captured.len(), captures);
    }
    let Ok(address) = template.fill(&values) else {
        return;
    };
    assert!(levels::is_address(address.as_str()));
    // Values beyond the last capture are nowhere in the address.
    let used: Vec<_> = values
        .iter()
        .take(captures)
        .map(|value| (*value).to_owned())
        .collect();
    assert_eq!(template.extract(address.as_str()), Some(used));
    for wild in 0..=captures {
        let chosen: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(at, value)| (at >= wild).then_some(*value))
            .collect();
        let pattern = template
            .pattern(&chosen[..captures])
            .expect("a template with levels of an address");
        assert!(pattern.matches(address.as_str()));
    }
});
