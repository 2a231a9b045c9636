//! Compile-time checks of the user's types, each an error at the type in the trait.
//!
//! Generated code uses the types through the gates of `__private`, which turn inert for a type that can't travel. So the
//! assertion here is the only place where such a type is an error.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{Ident, Type};

use crate::paths::{CratePath, about};

/// What a type must be.
pub(crate) enum Role {
    Message,
    Error,
    Level,
    Default,
}

pub(crate) fn assert(krate: &CratePath, role: &Role, ty: &Type) -> TokenStream {
    let span = about(ty);
    let private = krate.private();
    let assertion = match role {
        Role::Message => quote_spanned!(span=> assert_message),
        Role::Error => quote_spanned!(span=> assert_error),
        Role::Level => quote_spanned!(span=> assert_level),
        Role::Default => quote_spanned!(span=> assert_default),
    };
    quote_spanned!(span=> #private::#assertion::<#ty>();)
}

/// Fails the build if the type is an alias of a `Result`, whose error would travel as part of the value.
pub(crate) fn assert_no_result(krate: &CratePath, ty: &Type) -> TokenStream {
    let span = about(ty);
    let private = krate.private();
    let text = "this type is an alias of a `Result`; write `Result<T, E>` in the trait, so that the error is part of the contract";
    quote_spanned!(span=> ::core::assert!(!#private::Probe::<#ty>::IS_RESULT, #text);)
}

/// Fails the build if commlib has no durable topics and methods.
pub(crate) fn assert_durable(krate: &CratePath, at: &Ident) -> TokenStream {
    let span = about(at);
    let private = krate.private();
    let text = format!("`{at}` is durable: enable the feature `durable` of the crate commlib");
    quote_spanned!(span=> ::core::assert!(#private::DURABLE, #text);)
}

/// Fails the build if a gate is closed though every type passed its own assertion: inert code must never get to run. In the
/// same block as those assertions, it is not even evaluated when one of them fails.
pub(crate) fn assert_open(gate: &Ident) -> TokenStream {
    let span = Span::mixed_site();
    let text = "a type of this method can't be used here; please report this as a bug of commlib";
    quote_spanned!(span=> ::core::assert!(#gate::OPEN, #text);)
}

/// The traits through which a closed gate is inert and a probe says no.
pub(crate) fn imports(krate: &CratePath) -> TokenStream {
    let span = Span::mixed_site();
    let private = krate.private();
    quote_spanned! {span=>
        use #private::{ClosedLevelGate as _, ClosedRpcGate as _, ClosedTopicGate as _, NotResult as _};
        use #private::serde as __serde;
    }
}
