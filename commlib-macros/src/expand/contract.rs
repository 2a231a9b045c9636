//! The contract: what the trait promises, as a value, from the trait alone.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

use crate::model::Head;

/// `fn __contract()`: `builder` is `rpc` or `topics`, `parts` one statement for each method.
pub(crate) fn function(head: &Head, builder: &TokenStream, parts: &[TokenStream]) -> TokenStream {
    let span = Span::mixed_site();
    let krate = &head.krate;
    let private = krate.private();
    let doc = head.carried.doc_text();
    quote_spanned! {span=>
        fn __contract() -> #krate::Contract {
            let mut contract = #private::ContractBuilder::#builder(&__DESCRIPTOR, #doc);
            #(#parts)*
            contract.finish()
        }
    }
}

/// The associated function of a generated struct.
pub(crate) fn method(head: &Head) -> TokenStream {
    let span = Span::mixed_site();
    let Head {
        krate, vis, ident, ..
    } = head;
    let doc = format!(" The contract of [`{ident}`]: its name, methods and schemas.");
    quote_spanned! {span=>
        #[doc = #doc]
        #[must_use]
        #vis fn contract() -> #krate::Contract {
            __contract()
        }
    }
}
