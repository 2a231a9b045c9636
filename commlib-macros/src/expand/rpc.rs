//! The expansion of `#[rpc_service]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{Ident, LitStr, Type};

use super::gate::{self, Role};
use super::{allow, clone_inner, contract, debug, hidden, user_trait::user_trait};
use crate::model::{Checked, Head, Reply, RpcArg, RpcMethod};
use crate::paths::{CratePath, about, internal, internal_for};

pub(crate) fn service(checked: &Checked<RpcMethod>) -> TokenStream {
    let span = Span::mixed_site();
    let Checked {
        user, head, methods, ..
    } = checked;
    let Head {
        krate,
        vis,
        ident,
        carried,
        name,
        ..
    } = head;
    let private = krate.private();
    let (client, server) = (head.derived("Client"), head.derived("Server"));
    let user_trait = user_trait(user);
    let client_attrs = carried.for_struct(&format!(
        "Client of the service `{name}`: calls what a [`{ident}`] serves."
    ));
    let server_attrs = carried.for_struct(&format!(
        "Serves the service `{name}` with a handler that implements [`{ident}`]."
    ));
    let allow = allow();
    let generated = methods
        .iter()
        .map(|method| Generated::new(head, method))
        .collect::<Vec<_>>();
    let items = generated.iter().map(Generated::items);
    let descriptors = generated.iter().map(Generated::descriptor_entry);
    let parts = generated.iter().map(Generated::describe).collect::<Vec<_>>();
    let contract = contract::function(head, &quote!(rpc), &parts);
    let imports = gate::imports(krate);
    let client_impl = client_impl(head, &client, &generated);
    let server_impl = server_impl(head, &server, &generated);
    let hidden = hidden(
        head,
        &quote_spanned! {span=>
            #imports
            #(#items)*
            static __DESCRIPTOR: #private::ServiceDescriptor =
                #private::ServiceDescriptor { name: #name, methods: &[#(#descriptors)*] };
            #contract
            #client_impl
            #server_impl
        },
    );
    quote_spanned! {span=>
        #user_trait
        #client_attrs
        #allow
        #vis struct #client {
            inner: #private::RpcClient,
        }
        #server_attrs
        #allow
        #vis struct #server<S> {
            service: S,
        }
        #hidden
    }
}

fn client_impl(head: &Head, client: &Ident, methods: &[Generated<'_>]) -> TokenStream {
    let span = Span::mixed_site();
    let Head { krate, vis, name, .. } = head;
    let private = krate.private();
    let doc =
        format!(" A client of the service `{name}` on this node's broker. Cheap; clones share the node.");
    let contract = contract::method(head);
    let calls = methods.iter().map(Generated::client_method);
    let (clone, debug) = (clone_inner(client), debug(client, false));
    quote_spanned! {span=>
        impl #client {
            #[doc = #doc]
            #[must_use]
            #vis fn new(node: &#krate::Node) -> Self {
                Self { inner: #private::RpcClient::new(node) }
            }
            #contract
            #(#calls)*
        }
        #clone
        #debug
    }
}

fn server_impl(head: &Head, server: &Ident, methods: &[Generated<'_>]) -> TokenStream {
    let span = Span::mixed_site();
    let Head {
        krate,
        vis,
        ident,
        name,
        ..
    } = head;
    let private = krate.private();
    let doc =
        format!(" Makes a service out of a handler; give it to `Node::serve` to take calls of `{name}`.");
    let contract = contract::method(head);
    let arms = methods.iter().map(Generated::server_arm);
    let debug = debug(server, true);
    quote_spanned! {span=>
        impl<__S: #ident> #server<__S> {
            #[doc = #doc]
            #[must_use]
            #vis fn new(service: __S) -> Self {
                Self { service }
            }
            #contract
        }
        #debug
        impl<__S: #ident> #krate::Serve for #server<__S> {
            type Builder = #krate::rpc::ServeRpc;
            fn serve_on(self, node: &#krate::Node) -> #krate::rpc::ServeRpc {
                #private::serve_rpc(node, ::std::sync::Arc::new(self))
            }
        }
        // Two methods on one address, of which one is conditional, meet here in the build that has both.
        #[deny(unreachable_patterns)]
        impl<__S: #ident> #private::RpcService for #server<__S> {
            fn descriptor(&self) -> &'static #private::ServiceDescriptor {
                &__DESCRIPTOR
            }
            fn call(
                self: ::std::sync::Arc<Self>,
                method: &str,
                ctx: #krate::RequestContext,
                body: #private::Bytes,
            ) -> #private::BoxFuture<'static, #private::HandlerResult> {
                match method {
                    #(#arms)*
                    _ => #private::unknown_method(method),
                }
            }
        }
    }
}

/// One method, with the names of the items made for it.
struct Generated<'a> {
    head: &'a Head,
    method: &'a RpcMethod,
    descriptor: Ident,
    request: Ident,
    /// Alias of the gate.
    gate: Ident,
}

impl<'a> Generated<'a> {
    fn new(head: &'a Head, method: &'a RpcMethod) -> Self {
        Generated {
            head,
            method,
            descriptor: internal_for("__METHOD", &method.ident),
            gate: internal_for("__Gate", &method.ident),
            request: internal_for("__Request", &method.ident),
        }
    }

    /// The checks, the descriptor, the request struct and the alias of the gate.
    fn items(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            method,
            descriptor,
            request,
            gate,
        } = self;
        let krate = &head.krate;
        let private = krate.private();
        let cfgs = method.carried.cfgs();
        let wire = &method.wire;
        let address = format!("{}.{wire}", head.name);
        let at = Span::mixed_site().located_at(method.wire_span);
        let address = quote_spanned!(at=> #krate::Address::from_static(#address));
        let timeout = match method.timeout {
            None => quote_spanned!(span=> ::core::option::Option::None),
            Some(timeout) => {
                let (seconds, nanos) = (timeout.as_secs(), timeout.subsec_nanos());
                quote_spanned!(span=> ::core::option::Option::Some(::core::time::Duration::new(#seconds, #nanos)))
            }
        };
        let RpcMethod {
            idempotent,
            oneway,
            durable,
            ..
        } = method;
        let checks = self.checks();
        let request_struct = (!method.body).then(|| self.request_struct());
        let types = method.fields().map(|field| &field.ty);
        let request_type = if method.body {
            quote!(#(#types)*)
        } else {
            quote_spanned!(span=> #request<#(#types),*>)
        };
        let (ok, error) = reply_types(krate, &method.reply);
        quote_spanned! {span=>
            #(#cfgs)*
            const _: () = { #checks };
            #(#cfgs)*
            static #descriptor: #private::MethodDescriptor = #private::MethodDescriptor {
                name: #wire,
                address: #address,
                timeout: #timeout,
                idempotent: #idempotent,
                oneway: #oneway,
                durable: #durable,
            };
            #request_struct
            #(#cfgs)*
            type #gate = #private::RpcGate<#request_type, #ok, #error>;
        }
    }

    fn checks(&self) -> TokenStream {
        let krate = &self.head.krate;
        let Reply { ok, error } = &self.method.reply;
        let fields = self.method.fields().map(|field| {
            let message = gate::assert(krate, &Role::Message, &field.ty);
            let default = field
                .default
                .then(|| gate::assert(krate, &Role::Default, &field.ty));
            quote!(#message #default)
        });
        let reply = gate::assert(krate, &Role::Message, ok);
        let result = match error {
            Some(error) => gate::assert(krate, &Role::Error, error),
            None => gate::assert_no_result(krate, ok),
        };
        let open = gate::assert_open(&self.gate);
        let durable = self
            .method
            .durable
            .then(|| gate::assert_durable(krate, &self.method.ident));
        quote!(#(#fields)* #reply #result #open #durable)
    }

    /// Generic over the types of its fields, so that a type without the derives makes it no message instead of an error.
    fn request_struct(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated { method, request, .. } = self;
        let cfgs = method.carried.cfgs();
        let params = self.request_params();
        let fields = method.fields().zip(&params).map(|(field, param)| {
            let (ident, wire) = (&field.ident, &field.wire);
            let default = field.default.then(|| quote_spanned!(span=> #[serde(default)]));
            quote_spanned!(span=> #[serde(rename = #wire)] #default #ident: #param,)
        });
        let schema = self.request_schema();
        quote_spanned! {span=>
            #(#cfgs)*
            #[derive(__serde::Serialize, __serde::Deserialize)]
            #[serde(crate = "__serde")]
            struct #request<#(#params),*> {
                #(#fields)*
            }
            #schema
        }
    }

    /// The schema is put together by the runtime: schemars' derive leans on the prelude.
    fn request_schema(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            method,
            request,
            ..
        } = self;
        let private = head.krate.private();
        let cfgs = method.carried.cfgs();
        let name = format!(
            "{}{}Request",
            head.ident.unraw(),
            pascal_case(&method.ident.unraw().to_string())
        );
        let params = self.request_params();
        let bounds = method.fields().zip(&params).map(|(field, param)| {
            let default = field
                .default
                .then(|| quote_spanned!(span=> + ::core::default::Default));
            let krate = &head.krate;
            quote_spanned!(span=> #param: #krate::Message #default)
        });
        let fields = method.fields().zip(&params).map(|(field, param)| {
            let (wire, doc) = (&field.wire, field.docs.doc_text());
            let function = internal(if field.default { "optional" } else { "field" });
            quote_spanned!(span=> .#function::<#param>(#wire, #doc))
        });
        quote_spanned! {span=>
            #(#cfgs)*
            #[automatically_derived]
            impl<#(#bounds),*> #private::schemars::JsonSchema for #request<#(#params),*> {
                fn schema_name() -> ::std::borrow::Cow<'static, str> {
                    ::std::borrow::Cow::Borrowed(#name)
                }
                fn schema_id() -> ::std::borrow::Cow<'static, str> {
                    ::std::borrow::Cow::Borrowed(::core::concat!(::core::module_path!(), "::", #name))
                }
                fn json_schema(generator: &mut #private::schemars::SchemaGenerator) -> #private::schemars::Schema {
                    #private::RequestSchema::new(generator)
                        #(#fields)*
                        .finish()
                }
            }
        }
    }

    /// One type parameter for each field.
    fn request_params(&self) -> Vec<Ident> {
        (0..self.method.fields().count())
            .map(|index| internal(&format!("__A{index}")))
            .collect()
    }

    fn descriptor_entry(&self) -> TokenStream {
        let cfgs = self.method.carried.cfgs();
        let descriptor = &self.descriptor;
        quote!(#(#cfgs)* &#descriptor,)
    }

    fn describe(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            method,
            descriptor,
            gate,
            ..
        } = self;
        let cfgs = method.carried.cfgs();
        let doc = method.carried.doc_text();
        quote_spanned!(span=> #(#cfgs)* #gate::describe(&mut contract, &#descriptor, #doc);)
    }

    fn client_method(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            method,
            descriptor,
            gate,
            ..
        } = self;
        let Head { krate, vis, name, .. } = head;
        let ident = &method.ident;
        let attrs = method
            .carried
            .for_method(&format!("Calls `{name}.{}`.", method.wire));
        let args = method.fields().map(|field| {
            let (ident, ty) = (&field.ident, &field.ty);
            quote!(#ident: #ty)
        });
        let (ok, error) = reply_types(krate, &method.reply);
        let (output, function) = match (method.oneway, method.durable) {
            (true, false) => (quote_spanned!(span=> #krate::rpc::Oneway), internal("oneway")),
            (true, true) => (
                quote_spanned!(span=> #krate::rpc::DurableOneway),
                internal("durable_oneway"),
            ),
            (false, false) => (
                quote_spanned!(span=> #krate::rpc::Call<#ok, #error>),
                internal("call"),
            ),
            (false, true) => (
                quote_spanned!(span=> #krate::rpc::DurableCall<#ok, #error>),
                internal("durable_call"),
            ),
        };
        let request = self.request_value();
        quote_spanned! {span=>
            #attrs
            #vis fn #ident(&self, #(#args),*) -> #output {
                #gate::#function(&self.inner, &#descriptor, &#request)
            }
        }
    }

    fn server_arm(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head, method, gate, ..
        } = self;
        let cfgs = method.carried.cfgs();
        let (user_trait, ident) = (&head.ident, &method.ident);
        // At the user's token: there a second arm of the same name is reported.
        let wire = LitStr::new(&method.wire, method.wire_span);
        let request = self.request_value();
        let args = method.args.iter().map(|arg| match arg {
            RpcArg::Context => quote_spanned!(span=> &ctx),
            RpcArg::Field(field) => {
                let ident = &field.ident;
                quote!(#ident)
            }
        });
        // A body that is the argument itself may be of any form.
        let decode = internal(if method.body { "decode" } else { "decode_object" });
        let encode = match &method.reply {
            Reply {
                error: Some(error), ..
            } => quote_spanned!(about(error)=> #gate::encode_result(codec, &reply)),
            Reply { ok, error: None } => quote_spanned!(about(ok)=> #gate::encode_reply(codec, &reply)),
        };
        quote_spanned! {span=>
            #(#cfgs)*
            #wire => ::std::boxed::Box::pin(async move {
                let codec = ctx.codec();
                let #request = match #gate::#decode(codec, &body) {
                    ::core::result::Result::Ok(request) => request,
                    ::core::result::Result::Err(failure) => return ::core::result::Result::Err(failure),
                };
                let reply = <__S as #user_trait>::#ident(&self.service, #(#args),*).await;
                #encode
            }),
        }
    }

    /// The request out of the arguments; as a pattern, the arguments out of the request.
    fn request_value(&self) -> TokenStream {
        let request = &self.request;
        let idents = self.method.fields().map(|field| &field.ident);
        if self.method.body {
            return quote!(#(#idents)*);
        }
        let span = Span::mixed_site();
        quote_spanned!(span=> #request { #(#idents),* })
    }
}

/// `T` and `E` of `Call<T, E>`.
pub(crate) fn reply_types(krate: &CratePath, reply: &Reply) -> (Type, TokenStream) {
    let span = Span::mixed_site();
    let error = match &reply.error {
        Some(error) => quote!(#error),
        None => quote_spanned!(span=> #krate::NoError),
    };
    (reply.ok.clone(), error)
}

/// `move_to` → `MoveTo`, for the titles of request schemas.
fn pascal_case(snake: &str) -> String {
    let words = snake.split('_').map(|word| {
        let mut chars = word.chars();
        chars
            .next()
            .map(|first| first.to_uppercase().chain(chars).collect::<String>())
            .unwrap_or_default()
    });
    words.collect()
}
