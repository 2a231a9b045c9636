//! What the examples promise to their peers, and what the README shows of them, does not change unnoticed.

use serde_json::Value;

/// The code of the quickstart, for its contracts.
#[path = "../examples/quickstart.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod quickstart;

#[test]
fn contracts_are_exported() {
    commlib::schema::assert_exported("../schemas", commlib_examples::contracts());
}

/// The quickstart declares its own, shorter traits, so that it can be read and copied alone.
#[test]
fn the_quickstart_has_the_same_contracts() {
    let json = |contract: commlib::Contract| -> Value { serde_json::from_str(&contract.to_json()).unwrap() };
    let shared: Vec<Value> = commlib_examples::contracts().into_iter().map(json).collect();
    for own in [
        quickstart::CalculatorClient::contract(),
        quickstart::SensorsPublisher::contract(),
    ] {
        let own = json(own);
        let same = shared
            .iter()
            .find(|shared| shared["name"] == own["name"])
            .unwrap();
        for kind in ["methods", "topics"] {
            for item in own[kind].as_array().into_iter().flatten() {
                let items = same[kind].as_array().unwrap();
                let matching = items
                    .iter()
                    .find(|other| other["address"] == item["address"])
                    .unwrap();
                assert_eq!(without_text(item), without_text(matching));
            }
        }
        for (name, definition) in own["$defs"].as_object().unwrap() {
            assert_eq!(
                without_text(definition),
                without_text(&same["$defs"][name]),
                "{name}"
            );
        }
    }
}

/// The same without documentation.
fn without_text(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| *key != "description")
            .map(|(key, value)| (key.clone(), without_text(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_text).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_readme_shows_the_quickstart() {
    let code = include_str!("../examples/quickstart.rs");
    let begin = code.find("use commlib::prelude::*;").unwrap();
    let end = code.find("/// Serves, calls").unwrap();
    assert!(
        include_str!("../../README.md").contains(&code[begin..end]),
        "the README does not show this code:\n\n{}",
        &code[begin..end]
    );
}
