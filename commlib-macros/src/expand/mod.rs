//! Model in, tokens out. Nothing here can fail.
//!
//! What the user sees (the trait, the generated structs) stands beside the trait, all else inside `const _: () = { … }`, so
//! that the macros work in functions and twice in one module. Our own identifiers have the span `mixed_site` and can't
//! meet the user's; items, whose names aren't hygienic, start with `__`. Paths are absolute.

mod contract;
mod gate;
mod inert;
mod rpc;
mod topic;
mod user_trait;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use crate::diag::Errors;
use crate::model::Head;
use crate::validate;

/// The expansion of `#[rpc_service]` and the errors to report beside it.
pub(crate) fn rpc_service(attr: TokenStream, item: TokenStream) -> (TokenStream, Vec<syn::Error>) {
    let mut errors = Errors::default();
    let Some(checked) = validate::rpc::service(attr, &item, &mut errors) else {
        return (item, errors.into_vec());
    };
    let tokens = if errors.is_empty() {
        rpc::service(&checked)
    } else {
        inert::rpc_service(&checked)
    };
    (tokens, errors.into_vec())
}

/// The expansion of `#[topic]` on a trait and the errors to report beside it.
pub(crate) fn topic(attr: TokenStream, item: TokenStream) -> (TokenStream, Vec<syn::Error>) {
    let mut errors = Errors::default();
    let Some(checked) = validate::topic::topics(attr, &item, &mut errors) else {
        return (item, errors.into_vec());
    };
    let tokens = if errors.is_empty() {
        topic::topics(&checked)
    } else {
        inert::topics(&checked)
    };
    (tokens, errors.into_vec())
}

/// `#[rpc]` outside a service.
pub(crate) fn misplaced_rpc(item: TokenStream) -> (TokenStream, Vec<syn::Error>) {
    let text =
        "`#[rpc]` sets options of a method inside a `#[commlib::rpc_service]` trait and means nothing here";
    (item, vec![syn::Error::new(Span::call_site(), text)])
}

/// Lints that fire on generated code through the spans of the user's tokens, or because the user calls none of it.
fn allow() -> TokenStream {
    quote!(#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)])
}

/// `const _: () = { … };` around all that has no name for the user.
fn hidden(head: &Head, items: &TokenStream) -> TokenStream {
    let span = Span::mixed_site();
    let cfgs = head.carried.cfgs();
    quote_spanned! {span=>
        #(#cfgs)*
        #[allow(
            dead_code,
            deprecated,
            non_camel_case_types,
            non_snake_case,
            non_upper_case_globals,
            unused_imports,
            unused_mut,
            clippy::all,
            clippy::pedantic,
            clippy::nursery
        )]
        const _: () = {
            #items
        };
    }
}

/// `Debug` without the fields: they are handles, and a handler need not be `Debug`.
fn debug(name: &syn::Ident, generic: bool) -> TokenStream {
    let span = Span::mixed_site();
    let text = name.to_string();
    let params = generic.then(|| quote_spanned!(span=> <__S>));
    quote_spanned! {span=>
        #[automatically_derived]
        impl #params ::core::fmt::Debug for #name #params {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#text).finish_non_exhaustive()
            }
        }
    }
}

/// `Clone` of a struct whose one field is `inner`.
fn clone_inner(name: &syn::Ident) -> TokenStream {
    let span = Span::mixed_site();
    quote_spanned! {span=>
        #[automatically_derived]
        impl ::core::clone::Clone for #name {
            fn clone(&self) -> Self {
                Self { inner: ::core::clone::Clone::clone(&self.inner) }
            }
        }
    }
}
