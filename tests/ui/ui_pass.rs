//! The cases that compile, as modules of one crate: clippy sees them here, which no `trybuild` case does.
#![deny(warnings)]
#![warn(clippy::pedantic)]

#[path = "pass/args_named_like_ours.rs"]
mod args_named_like_ours;
#[path = "pass/attr_two_lists_merge.rs"]
mod attr_two_lists_merge;
#[path = "pass/cfg_off_method_with_missing_types.rs"]
mod cfg_off_method_with_missing_types;
#[path = "pass/concrete_generic_types.rs"]
mod concrete_generic_types;
#[path = "pass/context_anywhere.rs"]
mod context_anywhere;
#[path = "pass/deny_missing_docs.rs"]
mod deny_missing_docs;
#[path = "pass/deprecated_method_ok.rs"]
mod deprecated_method_ok;
#[path = "pass/inside_macro_rules.rs"]
mod inside_macro_rules;
#[path = "pass/lint_levels_carried.rs"]
mod lint_levels_carried;
#[path = "pass/local_mod_named_commlib.rs"]
mod local_mod_named_commlib;
#[path = "pass/no_implicit_prelude.rs"]
mod no_implicit_prelude;
#[path = "pass/private_trait_no_warnings.rs"]
mod private_trait_no_warnings;
#[path = "pass/pub_crate_trait.rs"]
mod pub_crate_trait;
#[path = "pass/raw_identifiers.rs"]
mod raw_identifiers;
#[path = "pass/rpc_durable.rs"]
mod rpc_durable;
#[path = "pass/service_inside_fn.rs"]
mod service_inside_fn;
#[path = "pass/shadowed_result_option_vec.rs"]
mod shadowed_result_option_vec;
#[path = "pass/spawn_generic_over_service.rs"]
mod spawn_generic_over_service;
#[path = "pass/topic_durable.rs"]
mod topic_durable;
#[path = "pass/two_services_one_module.rs"]
mod two_services_one_module;
#[path = "pass/user_macros_and_attributes.rs"]
mod user_macros_and_attributes;

/// A case that is missing above would escape clippy.
#[test]
fn every_case_is_a_module() {
    let list = include_str!("ui_pass.rs");
    for entry in
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pass")).expect("the cases can be listed")
    {
        let name = entry.expect("an entry can be read").file_name();
        let line = format!("#[path = \"pass/{}\"]", name.to_string_lossy());
        assert!(list.contains(&line), "add {line} and its `mod` to ui_pass.rs");
    }
}

#[test]
fn each_case_runs() {
    args_named_like_ours::main();
    attr_two_lists_merge::main();
    cfg_off_method_with_missing_types::main();
    concrete_generic_types::main();
    context_anywhere::main();
    deny_missing_docs::main();
    deprecated_method_ok::main();
    inside_macro_rules::main();
    lint_levels_carried::main();
    local_mod_named_commlib::main();
    no_implicit_prelude::main();
    private_trait_no_warnings::main();
    pub_crate_trait::main();
    raw_identifiers::main();
    rpc_durable::main();
    service_inside_fn::main();
    shadowed_result_option_vec::main();
    spawn_generic_over_service::main();
    topic_durable::main();
    two_services_one_module::main();
    user_macros_and_attributes::main();
}
