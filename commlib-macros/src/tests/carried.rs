//! Where the user's attributes and docs end up.

use super::{good, rpc, topic};

/// The lines before `start` that belong to it: attributes and docs.
fn above<'a>(output: &'a str, start: &str) -> &'a str {
    let at = output
        .find(start)
        .unwrap_or_else(|| panic!("no `{start}` in\n{output}"));
    let before = &output[..at];
    let from = before.rfind(['}', ';', '{']).map_or(0, |at| at + 1);
    &before[from..]
}

#[test]
fn docs_reach_trait_client_and_contract() {
    let output = good(rpc(
        "",
        "/// All of it.\ntrait X { /// Adds.\n///\n/// Twice.\nasync fn add(&self); }",
    ));
    assert_eq!(output.matches("/// Adds.").count(), 2, "{output}");
    assert!(
        output.contains(r#"describe(&mut contract, &__METHOD_add, "Adds.\n\nTwice.")"#),
        "{output}"
    );
    assert!(
        output.contains("&__DESCRIPTOR,\n            \"All of it.\""),
        "{output}"
    );
    assert!(
        above(&output, "struct XClient").contains("/// All of it."),
        "{output}"
    );
}

#[test]
fn docs_reach_publisher_subscriber_and_contract() {
    let output = good(topic("", "trait X { /// Rings.\nasync fn bell(&self, m: u8); }"));
    assert_eq!(output.matches("/// Rings.").count(), 3, "{output}");
    assert!(
        output.contains(r#"describe(&mut contract, &__TOPIC_bell, "Rings.")"#),
        "{output}"
    );
}

#[test]
fn included_docs_are_left_to_the_compiler() {
    let output = good(rpc(
        "",
        r#"trait X { #[doc = "A"] #[doc = include_str!("b.md")] async fn add(&self); }"#,
    ));
    assert!(
        output.contains(r#"::core::concat!("A\n", include_str!("b.md"), "\n", "")"#),
        "{output}"
    );
}

#[test]
fn docs_of_arguments_move_to_the_request() {
    let output = good(rpc(
        "",
        "trait X { async fn add(&self, /** How many. */ a: u8); }",
    ));
    assert_eq!(output.matches("How many.").count(), 1, "{output}");
    assert!(output.contains(r#".field::<__A0>("a", "How many.")"#), "{output}");
}

#[test]
fn undocumented_methods_get_a_doc_in_the_client_only() {
    let output = good(rpc("", "trait X { async fn add(&self); }"));
    assert_eq!(output.matches("/// Calls `x.add`.").count(), 1, "{output}");
}

#[test]
fn cfg_is_on_every_derived_item() {
    let output = good(rpc(
        "",
        "trait X { #[cfg(no)] async fn add(&self, a: Missing) -> Gone; async fn other(&self); }",
    ));
    // trait method, check, descriptor, request, its schema, gate, entry, contract, client method, server arm
    assert_eq!(output.matches("#[cfg(no)]").count(), 10, "{output}");
    let output = good(topic(
        "",
        "trait X { #[cfg(no)] async fn add(&self, a: Missing); }",
    ));
    // trait method, check, gate, descriptor, entry, contract, publisher, subscriber, handler arm
    assert_eq!(output.matches("#[cfg(no)]").count(), 9, "{output}");
}

#[test]
fn cfg_of_the_trait_is_on_all_that_is_generated() {
    let output = good(rpc("", "#[cfg(no)] trait X { async fn add(&self); }"));
    // trait, client, server, hidden items
    assert_eq!(output.matches("#[cfg(no)]").count(), 4, "{output}");
}

#[test]
fn deprecated_must_use_and_lints_reach_the_client() {
    let trait_ = "trait X { #[deprecated] #[must_use] #[allow(a)] #[warn(b)] #[deny(c)] #[forbid(d)] #[expect(e)] #[other] async fn add(&self); }";
    let output = good(rpc("", trait_));
    for attr in [
        "#[deprecated]",
        "#[allow(a)]",
        "#[warn(b)]",
        "#[deny(c)]",
        "#[forbid(d)]",
    ] {
        assert_eq!(output.matches(attr).count(), 2, "{attr}\n{output}");
    }
    // An expectation can't be met twice; other attributes stay where they are.
    assert_eq!(output.matches("#[expect(e)]").count(), 1, "{output}");
    assert_eq!(output.matches("#[allow(e)]").count(), 1, "{output}");
    assert_eq!(output.matches("#[other]").count(), 1, "{output}");
}

#[test]
fn visibility_is_that_of_the_trait() {
    for vis in ["", "pub ", "pub(crate) ", "pub(in crate::a) "] {
        let output = good(rpc("", &format!("{vis}trait X {{ async fn add(&self); }}")));
        for start in [
            format!("\n{vis}struct XClient"),
            format!("\n{vis}struct XServer<S>"),
            format!("        {vis}fn add(&self) -> ::commlib::rpc::Call"),
        ] {
            assert!(output.contains(&start), "{start}\n{output}");
        }
    }
}

#[test]
fn own_attributes_are_gone() {
    let output = good(rpc(
        "",
        "trait X { #[rpc(idempotent)] #[commlib::rpc(name = \"b\")] async fn add(&self, #[rpc(default)] a: u8); }",
    ));
    assert!(
        !output.contains("#[rpc") && !output.contains("#[commlib"),
        "{output}"
    );
}

#[test]
fn default_bodies_and_supertraits_are_kept() {
    let output = good(rpc(
        "",
        "trait X: Clone + Debug { async fn add(&self, a: u8) -> u8 { a + 1 } }",
    ));
    let text = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("trait X: Clone + Debug + ::core::marker::Send + ::core::marker::Sync + 'static"),
        "{output}"
    );
    assert!(text.contains("async move { a + 1 }"), "{output}");
}

#[test]
fn the_crate_path_is_used_throughout() {
    let output = good(rpc(
        "crate = a::b",
        "trait X { async fn add(&self, a: u8, ctx: &RequestContext) -> Result<u8, E>; }",
    ));
    assert!(!output.contains("::commlib"), "{output}");
    let output = good(topic(
        "crate = a::b",
        "trait X { #[topic(\"{c}\")] async fn add(&self, a: u8, c: C); }",
    ));
    assert!(!output.contains("::commlib"), "{output}");
}

#[test]
fn paths_do_not_lean_on_the_prelude() {
    let outputs = [
        good(rpc(
            "",
            "trait X { #[rpc(timeout = \"1s\")] async fn add(&self, a: u8, ctx: &RequestContext) -> Result<u8, E>; }",
        )),
        good(topic(
            "",
            "trait X { #[topic(\"{c}\")] async fn add(&self, a: u8, c: C); }",
        )),
    ];
    for output in outputs {
        for name in [
            "Option", "Some", "None", "Ok", "Err", "Vec", "Box", "Arc", "String", "Send", "Sync", "Clone",
            "Debug", "vec!", "concat!",
        ] {
            for (at, _) in output.match_indices(name) {
                let before = output[..at].chars().next_back().unwrap_or(' ');
                let after = output[at + name.len()..].chars().next().unwrap_or(' ');
                let whole = !before.is_alphanumeric()
                    && before != '_'
                    && before != '"'
                    && !after.is_alphanumeric()
                    && after != '_';
                assert!(!whole || before == ':', "unqualified `{name}` in\n{output}");
            }
        }
    }
}
