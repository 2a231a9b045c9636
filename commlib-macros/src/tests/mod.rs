//! Tests of the pure functions behind the macros: tokens in, tokens and errors out.

mod carried;
mod errors;
mod house;
mod snapshots;
mod topic_errors;

use proc_macro2::TokenStream;

type Macro = fn(TokenStream, TokenStream) -> (TokenStream, Vec<syn::Error>);

fn tokens(text: &str) -> TokenStream {
    text.parse().expect("the test's own source has balanced tokens")
}

/// Pretty-printed expansion and error messages of `#[rpc_service(attr)] item`.
fn rpc(attr: &str, item: &str) -> (String, Vec<String>) {
    run(crate::expand::rpc_service, attr, item)
}

/// The same for `#[topic(attr)] item`.
fn topic(attr: &str, item: &str) -> (String, Vec<String>) {
    run(crate::expand::topic, attr, item)
}

fn run(macro_: Macro, attr: &str, item: &str) -> (String, Vec<String>) {
    let (output, errors) = macro_(tokens(attr), tokens(item));
    let file =
        syn::parse2(output.clone()).unwrap_or_else(|error| panic!("expansion is no Rust: {error}\n{output}"));
    (
        prettyplease::unparse(&file),
        errors.iter().map(ToString::to_string).collect(),
    )
}

/// The expansion of something without errors.
#[track_caller]
fn good((output, errors): (String, Vec<String>)) -> String {
    assert_eq!(errors, Vec::<String>::new());
    output
}

/// The one error of something with one error.
#[track_caller]
fn one_error((_, errors): (String, Vec<String>)) -> String {
    match errors.as_slice() {
        [error] => error.clone(),
        _ => panic!("expected one error, got {errors:#?}"),
    }
}

/// One method in an otherwise good topic trait.
fn topic_method(text: &str) -> (String, Vec<String>) {
    topic("", &format!("trait X {{ {text} }}"))
}

/// One error, with these words in it.
#[track_caller]
fn says(result: (String, Vec<String>), parts: &[&str]) {
    let error = one_error(result);
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}
