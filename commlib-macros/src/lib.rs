//! The attribute macros of commlib. Use them through the `commlib` crate, which re-exports them and explains them.
//!
//! A macro runs in stages: `parse` (lenient, signatures only) → `attr` (typed attributes) → `validate` (the only stage
//! that makes errors for users; raw trait in, `model` out) → `expand` (model in, tokens out; can't fail). All errors of a
//! trait are reported at once, and the trait is still emitted, so that nothing that uses it fails as well.

mod attr;
mod diag;
mod expand;
mod model;
mod parse;
mod paths;
mod validate;

#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Turns a trait into an RPC contract: a typed client, a typed server and a description of both.
///
/// | where | keys |
/// |---|---|
/// | `#[rpc_service(…)]` on the trait | `name = "…"` (default: the trait's name in snake case), `crate = path` |
/// | `#[rpc(…)]` on a method | `name = "…"`, `timeout = "2s"` (`ms`, `s`, `m`, `h`), `idempotent`, `oneway`, `durable`, `body` |
/// | `#[rpc(…)]` on an argument | `name = "…"`, `default` (may be absent), `context` (never sent) |
///
/// `trait Calculator` gives `CalculatorClient` and `CalculatorServer<S>`, both with the trait's visibility. A method may take
/// one `&RequestContext`, at any position; it reaches the handler and is no argument of the client. It may return `T`,
/// `Result<T, E>` or nothing.
#[proc_macro_attribute]
pub fn rpc_service(attr: TokenStream, item: TokenStream) -> TokenStream {
    with_errors(expand::rpc_service(attr.into(), item.into()))
}

/// Turns a trait into a publish/subscribe contract: a typed publisher, subscriber and handler, and a description of them.
///
/// | where | keys |
/// |---|---|
/// | `#[topic(…)]` on the trait | `prefix = "…"` (default: the trait's name in snake case), `crate = path` |
/// | `#[topic("…")]` on a method | the topic below the prefix, `"sonar.{side}"` (default: the method's name) |
/// | `#[topic(context)]` on an argument | marks a `&MessageContext` under another name |
///
/// `trait Sensors` gives `SensorsPublisher`, `SensorsSubscriber` and `SensorsHandler<S>`, all with the trait's visibility.
/// Each `{name}` of a topic is an argument of the method; the one argument left is the message.
#[proc_macro_attribute]
pub fn topic(attr: TokenStream, item: TokenStream) -> TokenStream {
    with_errors(expand::topic(attr.into(), item.into()))
}

/// Sets options of a method or an argument inside a `#[commlib::rpc_service]` trait. Means nothing elsewhere, and says so.
#[proc_macro_attribute]
pub fn rpc(_attr: TokenStream, item: TokenStream) -> TokenStream {
    with_errors(expand::misplaced_rpc(item.into()))
}

fn with_errors((tokens, errors): (proc_macro2::TokenStream, Vec<syn::Error>)) -> TokenStream {
    let errors = errors.iter().map(syn::Error::to_compile_error);
    quote::quote!(#tokens #(#errors)*).into()
}
