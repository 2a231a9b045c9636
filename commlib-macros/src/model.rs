//! What the validation hands to the expansion. Everything in here is known to be good; only [`Stub`]s also stand for methods
//! with errors.

use std::time::Duration;

use proc_macro2::{Span, TokenTree};
use syn::punctuated::Punctuated;
use syn::{Attribute, Generics, Ident, Signature, Token, TraitItem, Type, TypeParamBound, Visibility};

use crate::paths::{Carried, CratePath};

/// A checked trait with methods of kind `M`.
pub(crate) struct Checked<M> {
    /// The trait to emit, whatever else is wrong.
    pub(crate) user: UserTrait,
    pub(crate) head: Head,
    /// The good methods.
    pub(crate) methods: Vec<M>,
    /// All methods, for the inert stand-ins that are emitted when there are errors.
    pub(crate) stubs: Vec<Stub>,
}

/// What an RPC service and a set of topics have in common.
pub(crate) struct Head {
    pub(crate) krate: CratePath,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    pub(crate) carried: Carried,
    /// The service name or the topic prefix.
    pub(crate) name: String,
}

impl Head {
    /// `CalculatorClient` for the suffix `Client`, at the span of the trait's name.
    pub(crate) fn derived(&self, suffix: &str) -> Ident {
        quote::format_ident!("{}{suffix}", self.ident)
    }
}

/// The trait as written, without our own attributes.
pub(crate) struct UserTrait {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) unsafety: Option<Token![unsafe]>,
    pub(crate) auto: Option<Token![auto]>,
    pub(crate) trait_token: Token![trait],
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    pub(crate) items: Vec<UserItem>,
}

pub(crate) enum UserItem {
    Method(Box<UserMethod>),
    Other(Box<TraitItem>),
}

pub(crate) struct UserMethod {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) sig: Signature,
    pub(crate) body: Option<TokenTree>,
    /// Without errors: `async fn` becomes `fn -> impl Future + Send`. With errors the signature stays as it is.
    pub(crate) good: bool,
}

/// A method of an RPC service.
pub(crate) struct RpcMethod {
    pub(crate) ident: Ident,
    pub(crate) carried: Carried,
    /// The last level of the address.
    pub(crate) wire: String,
    /// Where an address that breaks the grammar is reported.
    pub(crate) wire_span: Span,
    /// In the order of the trait, the receiver left out.
    pub(crate) args: Vec<RpcArg>,
    /// The sole argument is the whole body.
    pub(crate) body: bool,
    pub(crate) reply: Reply,
    pub(crate) timeout: Option<Duration>,
    pub(crate) idempotent: bool,
    pub(crate) oneway: bool,
    /// The broker keeps its requests until they were handled.
    pub(crate) durable: bool,
}

impl RpcMethod {
    /// The arguments that travel.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.args.iter().filter_map(|arg| match arg {
            RpcArg::Field(field) => Some(&**field),
            RpcArg::Context => None,
        })
    }
}

pub(crate) enum RpcArg {
    Context,
    Field(Box<Field>),
}

/// An argument that travels.
pub(crate) struct Field {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    /// Its key in the request object.
    pub(crate) wire: String,
    /// May be absent, then `Default::default()`.
    pub(crate) default: bool,
    /// For the schema: the language takes no docs on arguments.
    pub(crate) docs: Carried,
}

/// What a method returns.
pub(crate) struct Reply {
    /// `T` of `T` and of `Result<T, E>`; `()` if nothing is written.
    pub(crate) ok: Type,
    /// `E` of `Result<T, E>`.
    pub(crate) error: Option<Type>,
}

/// One topic.
pub(crate) struct Topic {
    pub(crate) ident: Ident,
    pub(crate) carried: Carried,
    /// The whole template, prefix included.
    pub(crate) template: String,
    pub(crate) template_span: Span,
    /// In the order of the trait, the receiver left out.
    pub(crate) args: Vec<TopicArg>,
    /// Indices into `args`, in the order of the template.
    pub(crate) captures: Vec<usize>,
    /// Index into `args`.
    pub(crate) message: usize,
    /// Its messages are kept for groups that are away.
    pub(crate) durable: bool,
    /// Where it says that the handler returns a `Result`: an error means that the message is to be handled again.
    pub(crate) fallible: Option<Span>,
}

pub(crate) enum TopicArg {
    Context,
    /// A capture or the message.
    Value(Box<Value>),
}

/// An argument of a topic that travels.
pub(crate) struct Value {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
}

/// A method of an inert stand-in: named as the real one would be, of the real types where they are known to be good.
pub(crate) struct Stub {
    pub(crate) carried: Carried,
    pub(crate) ident: Ident,
    pub(crate) args: Vec<Option<Type>>,
    pub(crate) reply: Option<Reply>,
}
