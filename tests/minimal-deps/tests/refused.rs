//! What this crate's features of commlib lack is refused where a contract asks for it.

#[test]
fn what_is_durable_is_refused_without_the_feature() {
    // Built for itself, with the features that this crate asks for: the workspace asks for all of them.
    trybuild::TestCases::new().compile_fail("fail/durable.rs");
}
