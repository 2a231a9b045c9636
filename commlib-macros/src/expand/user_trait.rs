//! The trait, as written but for `async fn`, which becomes `fn -> impl Future + Send`: a user still implements it with
//! `async fn`, and generic code can spawn it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::ReturnType;
use syn::spanned::Spanned;

use crate::model::{UserItem, UserMethod, UserTrait};
use crate::paths::about;

pub(crate) fn user_trait(user: &UserTrait) -> TokenStream {
    let UserTrait {
        attrs,
        vis,
        unsafety,
        auto,
        trait_token,
        ident,
        generics,
        supertraits,
        items,
    } = user;
    let where_clause = &generics.where_clause;
    let span = about(ident);
    // The user's bounds first; a trailing `+` of theirs is dropped.
    let users = supertraits.iter().map(|bound| quote!(#bound +));
    let ours = quote_spanned!(span=> ::core::marker::Send + ::core::marker::Sync + 'static);
    let items = items.iter().map(|item| match item {
        UserItem::Method(method) => user_method(method),
        UserItem::Other(item) => item.to_token_stream(),
    });
    quote! {
        #(#attrs)*
        #vis #unsafety #auto #trait_token #ident #generics: #(#users)* #ours #where_clause {
            #(#items)*
        }
    }
}

fn user_method(method: &UserMethod) -> TokenStream {
    let UserMethod {
        attrs,
        sig,
        body,
        good,
    } = method;
    if !good {
        // Its types may be such that a future over them isn't `Send`, or that they have no size for a handler without one:
        // leave the future to the language, which takes any, and require a size, which every handler has.
        let mut sig = sig.clone();
        let sized = syn::parse_quote!(Self: ::core::marker::Sized);
        sig.generics.make_where_clause().predicates.push(sized);
        let end = body.as_ref().map_or_else(|| quote!(;), ToTokens::to_token_stream);
        return quote!(#(#attrs)* #[allow(async_fn_in_trait)] #sig #end);
    }
    let span = sig
        .asyncness
        .map_or_else(|| about(&sig.ident), |token| about(&token));
    let output = match &sig.output {
        ReturnType::Default => quote_spanned!(span=> ()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    let future = quote_spanned!(span=> impl ::core::future::Future<Output = #output> + ::core::marker::Send);
    let mut sig = sig.clone();
    sig.asyncness = None;
    let arrow = syn::Token![->](sig.output.span());
    sig.output = ReturnType::Type(arrow, Box::new(syn::Type::Verbatim(future)));
    let end = match body {
        Some(body) => quote_spanned!(span=> { async move #body }),
        None => quote!(;),
    };
    quote!(#(#attrs)* #sig #end)
}
