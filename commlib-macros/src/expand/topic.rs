//! The expansion of `#[topic]` on a trait.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{Ident, Type};

use super::gate::{self, Role};
use super::{allow, clone_inner, contract, debug, hidden, user_trait::user_trait};
use crate::model::{Checked, Head, Topic, TopicArg};
use crate::paths::{internal, internal_for};

pub(crate) fn topics(checked: &Checked<Topic>) -> TokenStream {
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
    let (publisher, subscriber, handler) = (
        head.derived("Publisher"),
        head.derived("Subscriber"),
        head.derived("Handler"),
    );
    let user_trait = user_trait(user);
    let publisher_attrs = carried.for_struct(&format!(
        "Publishes on the topics `{name}.…` what a [`{ident}`] handles."
    ));
    let subscriber_attrs =
        carried.for_struct(&format!("Subscribes to the topics `{name}.…` of [`{ident}`]."));
    let handler_attrs = carried.for_struct(&format!(
        "Handles the topics `{name}.…` with a handler that implements [`{ident}`]."
    ));
    let allow = allow();
    let generated = methods
        .iter()
        .map(|topic| Generated::new(head, topic))
        .collect::<Vec<_>>();
    let items = generated.iter().map(Generated::items);
    let descriptors = generated.iter().map(Generated::descriptor_entry);
    let parts = generated.iter().map(Generated::describe).collect::<Vec<_>>();
    let contract = contract::function(head, &quote!(topics), &parts);
    let imports = gate::imports(krate);
    let publishes = generated.iter().map(Generated::publisher_method).collect();
    let subscribes = generated.iter().map(Generated::subscriber_method).collect();
    let publisher_impl = sender_impl(
        head,
        &publisher,
        &internal("TopicPublisher"),
        "publisher",
        publishes,
    );
    let subscriber_impl = sender_impl(
        head,
        &subscriber,
        &internal("TopicSubscriber"),
        "subscriber",
        subscribes,
    );
    let handler_impl = handler_impl(head, &handler, &generated);
    let hidden = hidden(
        head,
        &quote_spanned! {span=>
            #imports
            #(#items)*
            static __DESCRIPTOR: #private::TopicsDescriptor =
                #private::TopicsDescriptor { prefix: #name, topics: &[#(#descriptors)*] };
            #contract
            #publisher_impl
            #subscriber_impl
            #handler_impl
        },
    );
    quote_spanned! {span=>
        #user_trait
        #publisher_attrs
        #allow
        #vis struct #publisher {
            inner: #private::TopicPublisher,
        }
        #subscriber_attrs
        #allow
        #vis struct #subscriber {
            inner: #private::TopicSubscriber,
        }
        #handler_attrs
        #allow
        #vis struct #handler<S> {
            service: S,
        }
        #hidden
    }
}

/// The publisher or the subscriber, which differ in their methods only.
fn sender_impl(
    head: &Head,
    name: &Ident,
    inner: &Ident,
    what: &str,
    methods: Vec<TokenStream>,
) -> TokenStream {
    let span = Span::mixed_site();
    let Head { krate, vis, .. } = head;
    let private = krate.private();
    let doc = format!(
        " A {what} of the topics `{}.…` on this node's broker. Cheap; clones share the node.",
        head.name
    );
    let contract = contract::method(head);
    let (clone, debug) = (clone_inner(name), debug(name, false));
    quote_spanned! {span=>
        impl #name {
            #[doc = #doc]
            #[must_use]
            #vis fn new(node: &#krate::Node) -> Self {
                Self { inner: #private::#inner::new(node) }
            }
            #contract
            #(#methods)*
        }
        #clone
        #debug
    }
}

fn handler_impl(head: &Head, handler: &Ident, topics: &[Generated<'_>]) -> TokenStream {
    let span = Span::mixed_site();
    let Head {
        krate,
        vis,
        ident,
        name,
        ..
    } = head;
    let private = krate.private();
    let doc = format!(
        " Makes a service out of a handler; give it to `Node::serve` to take messages on `{name}.…`."
    );
    let contract = contract::method(head);
    let arms = topics.iter().map(Generated::handler_arm);
    let debug = debug(handler, true);
    quote_spanned! {span=>
        impl<__S: #ident> #handler<__S> {
            #[doc = #doc]
            #[must_use]
            #vis fn new(service: __S) -> Self {
                Self { service }
            }
            #contract
        }
        #debug
        impl<__S: #ident> #krate::Serve for #handler<__S> {
            type Builder = #krate::topic::ServeTopics;
            fn serve_on(self, node: &#krate::Node) -> #krate::topic::ServeTopics {
                #private::serve_topics(node, ::std::sync::Arc::new(self))
            }
        }
        impl<__S: #ident> #private::TopicService for #handler<__S> {
            fn descriptor(&self) -> &'static #private::TopicsDescriptor {
                &__DESCRIPTOR
            }
            fn handle<'a>(
                &'a self,
                topic: &'a str,
                ctx: &'a #krate::MessageContext,
                levels: &'a [::std::string::String],
                body: &'a [u8],
            ) -> #private::BoxFuture<'a, ::core::result::Result<(), #private::Failure>> {
                match topic {
                    #(#arms)*
                    _ => #private::unknown_topic(topic),
                }
            }
        }
    }
}

/// One topic, with the names of the items made for it.
struct Generated<'a> {
    head: &'a Head,
    topic: &'a Topic,
    descriptor: Ident,
    /// Alias of the gate.
    gate: Ident,
}

impl<'a> Generated<'a> {
    fn new(head: &'a Head, topic: &'a Topic) -> Self {
        Generated {
            head,
            topic,
            descriptor: internal_for("__TOPIC", &topic.ident),
            gate: internal_for("__Gate", &topic.ident),
        }
    }

    /// The name by which the handler finds its arm: that of the method, which is unique in the trait.
    fn name(&self) -> String {
        self.topic.ident.unraw().to_string()
    }

    /// The captured arguments in the order of the template.
    fn captures(&self) -> impl Iterator<Item = (&'a Ident, &'a Type)> {
        self.topic
            .captures
            .iter()
            .filter_map(|index| value(self.topic, *index))
    }

    /// All arguments that travel, in the order of the trait; and whether it is the message.
    fn values(&self) -> impl Iterator<Item = (&'a Ident, &'a Type, bool)> {
        let topic = self.topic;
        topic
            .args
            .iter()
            .enumerate()
            .filter_map(move |(index, arg)| match arg {
                TopicArg::Value(value) => Some((&value.ident, &value.ty, index == topic.message)),
                TopicArg::Context => None,
            })
    }

    /// The checks, the alias of the gate and the descriptor.
    fn items(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            topic,
            descriptor,
            gate,
        } = self;
        let krate = &head.krate;
        let private = krate.private();
        let cfgs = topic.carried.cfgs();
        let (name, template, durable) = (self.name(), &topic.template, topic.durable);
        let at = Span::mixed_site().located_at(topic.template_span);
        let template = quote_spanned!(at=> #private::Template::from_static(#template));
        let message = value(topic, topic.message).map(|(_, ty)| ty);
        let captures = capture_types(topic);
        let checks = self.values().map(|(_, ty, is_message)| {
            gate::assert(krate, if is_message { &Role::Message } else { &Role::Level }, ty)
        });
        let open = gate::assert_open(gate);
        let needs = durable.then(|| gate::assert_durable(krate, &topic.ident));
        quote_spanned! {span=>
            #(#cfgs)*
            const _: () = { #(#checks)* #open #needs };
            #(#cfgs)*
            type #gate = #private::TopicGate<#message, (#(#captures,)*)>;
            #(#cfgs)*
            static #descriptor: #private::TopicDescriptor =
                #private::TopicDescriptor { name: #name, template: #template, durable: #durable };
        }
    }

    fn descriptor_entry(&self) -> TokenStream {
        let cfgs = self.topic.carried.cfgs();
        let descriptor = &self.descriptor;
        quote!(#(#cfgs)* &#descriptor,)
    }

    fn describe(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            topic,
            descriptor,
            gate,
            ..
        } = self;
        let cfgs = topic.carried.cfgs();
        let doc = topic.carried.doc_text();
        quote_spanned!(span=> #(#cfgs)* #gate::describe(&mut contract, &#descriptor, #doc);)
    }

    fn publisher_method(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            topic,
            descriptor,
            gate,
        } = self;
        let Head { krate, vis, .. } = head;
        let private = krate.private();
        let ident = &topic.ident;
        let attrs = topic
            .carried
            .for_method(&format!("Publishes on `{}`.", topic.template));
        let args = self.values().map(|(ident, ty, _)| quote!(#ident: #ty));
        let levels = self
            .captures()
            .map(|(ident, ty)| quote_spanned!(span=> #private::LevelGate::<#ty>::to_level(&#ident)));
        let message = value(topic, topic.message).map(|(ident, _)| ident);
        quote_spanned! {span=>
            #attrs
            #vis fn #ident(&self, #(#args),*) -> #krate::topic::Publish {
                #gate::publish(&self.inner, &#descriptor, ::std::vec![#(#levels),*], &#message)
            }
        }
    }

    fn subscriber_method(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head,
            topic,
            descriptor,
            gate,
        } = self;
        let Head { krate, vis, .. } = head;
        let private = krate.private();
        let ident = &topic.ident;
        let attrs = topic
            .carried
            .for_method(&format!("Subscribes to `{}`.", topic.template));
        let args = self
            .values()
            .filter(|(_, _, is_message)| !is_message)
            .map(|(ident, ty, _)| quote_spanned!(span=> #ident: impl #krate::topic::IntoSelector<#ty>));
        let selectors = self
            .captures()
            .map(|(ident, ty)| quote_spanned!(span=> #private::LevelGate::<#ty>::selector(#ident)));
        let message = value(topic, topic.message).map(|(_, ty)| ty);
        let captures = capture_types(topic);
        quote_spanned! {span=>
            #attrs
            #vis fn #ident(&self, #(#args),*) -> #krate::topic::Subscribe<#message, (#(#captures,)*)> {
                #gate::subscribe(&self.inner, &#descriptor, ::std::vec![#(#selectors),*])
            }
        }
    }

    fn handler_arm(&self) -> TokenStream {
        let span = Span::mixed_site();
        let Generated {
            head, topic, gate, ..
        } = self;
        let private = head.krate.private();
        let cfgs = topic.carried.cfgs();
        let (user_trait, ident, name) = (&head.ident, &topic.ident, self.name());
        let decoded = |source: TokenStream, ident: &Ident| {
            quote_spanned! {span=>
                let #ident = match #source {
                    ::core::result::Result::Ok(value) => value,
                    ::core::result::Result::Err(failure) => return ::core::result::Result::Err(failure),
                };
            }
        };
        let captures = self.captures().enumerate().map(|(index, (ident, ty))| {
            decoded(
                quote_spanned!(span=> #private::LevelGate::<#ty>::from_level(levels, #index)),
                ident,
            )
        });
        let message = value(topic, topic.message)
            .map(|(ident, _)| decoded(quote_spanned!(span=> #gate::decode(ctx.codec(), body)), ident));
        let args = topic.args.iter().map(|arg| match arg {
            TopicArg::Context => quote_spanned!(span=> ctx),
            TopicArg::Value(value) => {
                let ident = &value.ident;
                quote!(#ident)
            }
        });
        let run = quote_spanned!(span=> <__S as #user_trait>::#ident(&self.service, #(#args),*).await);
        let run = match topic.fallible {
            Some(written) => {
                let at = Span::mixed_site().located_at(written);
                let failed = quote_spanned!(at=> #private::not_handled(&error));
                quote_spanned!(span=> #run.map_err(|error| #failed))
            }
            None => quote_spanned!(span=> #run; ::core::result::Result::Ok(())),
        };
        quote_spanned! {span=>
            #(#cfgs)*
            #name => ::std::boxed::Box::pin(async move {
                #(#captures)*
                #message
                #run
            }),
        }
    }
}

fn value(topic: &Topic, index: usize) -> Option<(&Ident, &Type)> {
    match topic.args.get(index)? {
        TopicArg::Value(value) => Some((&value.ident, &value.ty)),
        TopicArg::Context => None,
    }
}

fn capture_types(topic: &Topic) -> Vec<&Type> {
    topic
        .captures
        .iter()
        .filter_map(|index| value(topic, *index))
        .map(|(_, ty)| ty)
        .collect()
}
