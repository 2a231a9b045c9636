//! What is emitted beside errors: the trait, and stand-ins with the names of the generated items, so that code that uses them
//! does not fail as well. They never run, as the crate does not compile.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::Ident;

use super::{allow, debug, hidden, rpc::reply_types, user_trait::user_trait};
use crate::model::{Checked, Head, Reply, RpcMethod, Stub, Topic};

pub(crate) fn rpc_service(checked: &Checked<RpcMethod>) -> TokenStream {
    let span = Span::mixed_site();
    let head = &checked.head;
    let krate = &head.krate;
    let server = head.derived("Server");
    let methods = checked.stubs.iter().map(|stub| {
        let unit = Reply {
            ok: syn::parse_quote!(()),
            error: None,
        };
        let (ok, error) = reply_types(krate, stub.reply.as_ref().unwrap_or(&unit));
        method(head, stub, &quote_spanned!(span=> #krate::rpc::Call<#ok, #error>))
    });
    let client = sender(head, &head.derived("Client"), methods.collect());
    let service = receiver(head, &server);
    let into = hidden(
        head,
        &quote_spanned! {span=>
            impl<__S> #krate::Serve for #server<__S> {
                type Builder = #krate::rpc::ServeRpc;
                fn serve_on(self, _: &#krate::Node) -> #krate::rpc::ServeRpc {
                    ::std::process::abort()
                }
            }
        },
    );
    let user_trait = user_trait(&checked.user);
    quote_spanned!(span=> #user_trait #client #service #into)
}

pub(crate) fn topics(checked: &Checked<Topic>) -> TokenStream {
    let span = Span::mixed_site();
    let head = &checked.head;
    let krate = &head.krate;
    let handler = head.derived("Handler");
    let publish = checked
        .stubs
        .iter()
        .map(|stub| method(head, stub, &quote_spanned!(span=> #krate::topic::Publish)));
    let publisher = sender(head, &head.derived("Publisher"), publish.collect());
    // What is captured may be unknown, so a subscription takes and gives anything.
    let subscribe = checked.stubs.iter().map(|stub| {
        let untyped = Stub {
            carried: stub.carried.clone(),
            ident: stub.ident.clone(),
            args: Vec::new(),
            reply: None,
        };
        method(
            head,
            &untyped,
            &quote_spanned!(span=> #krate::topic::Subscribe<(), ()>),
        )
    });
    let subscriber = sender(head, &head.derived("Subscriber"), subscribe.collect());
    let service = receiver(head, &handler);
    let into = hidden(
        head,
        &quote_spanned! {span=>
            impl<__S> #krate::Serve for #handler<__S> {
                type Builder = #krate::topic::ServeTopics;
                fn serve_on(self, _: &#krate::Node) -> #krate::topic::ServeTopics {
                    ::std::process::abort()
                }
            }
        },
    );
    let user_trait = user_trait(&checked.user);
    quote_spanned!(span=> #user_trait #publisher #subscriber #service #into)
}

/// A client, publisher or subscriber.
fn sender(head: &Head, name: &Ident, methods: Vec<TokenStream>) -> TokenStream {
    let span = Span::mixed_site();
    let Head {
        krate, vis, carried, ..
    } = head;
    let attrs = carried.for_struct("Stands in for the generated item while the trait has errors.");
    let allow = allow();
    let hidden = hidden(head, &{
        let (debug, methods) = (debug(name, false), methods);
        quote_spanned! {span=>
            impl #name {
                #[must_use]
                #vis fn new(_: &#krate::Node) -> Self {
                    ::std::process::abort()
                }
                #vis fn contract() -> #krate::Contract {
                    ::std::process::abort()
                }
                #(#methods)*
            }
            impl ::core::clone::Clone for #name {
                fn clone(&self) -> Self {
                    ::std::process::abort()
                }
            }
            #debug
        }
    });
    quote_spanned!(span=> #attrs #allow #vis struct #name; #hidden)
}

/// A server or handler.
fn receiver(head: &Head, name: &Ident) -> TokenStream {
    let span = Span::mixed_site();
    let Head {
        krate, vis, carried, ..
    } = head;
    let attrs = carried.for_struct("Stands in for the generated item while the trait has errors.");
    let allow = allow();
    let debug = debug(name, true);
    let hidden = hidden(
        head,
        &quote_spanned! {span=>
            impl<__S> #name<__S> {
                #vis fn new(_: __S) -> Self {
                    ::std::process::abort()
                }
                #vis fn contract() -> #krate::Contract {
                    ::std::process::abort()
                }
            }
            #debug
        },
    );
    quote_spanned!(span=> #attrs #allow #vis struct #name<S>(S); #hidden)
}

fn method(head: &Head, stub: &Stub, output: &TokenStream) -> TokenStream {
    let span = Span::mixed_site();
    let vis = &head.vis;
    let ident = &stub.ident;
    if ident == "new" || ident == "contract" {
        return TokenStream::new();
    }
    let attrs = stub.carried.for_method("Stands in while the trait has errors.");
    let args = stub.args.iter().enumerate().map(|(index, ty)| {
        let name = format_ident!("_a{index}", span = span);
        match ty {
            Some(ty) => quote_spanned!(span=> #name: #ty),
            None => quote_spanned!(span=> #name: impl ::core::marker::Sized),
        }
    });
    quote_spanned! {span=>
        #attrs
        #vis fn #ident(&self, #(#args),*) -> #output {
            ::std::process::abort()
        }
    }
}
