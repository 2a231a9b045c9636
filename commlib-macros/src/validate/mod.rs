//! Raw trait in, model out. The only stage that makes errors for users; what is common to both kinds of trait is here.

pub(crate) mod names;
pub(crate) mod rpc;
pub(crate) mod topic;
pub(crate) mod types;

use proc_macro2::{Span, TokenStream};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, Ident, LitStr, Pat, ReturnType, Signature, TraitItem, Type, Visibility};

use crate::attr::{Bag, Place, own_attribute};
use crate::diag::Errors;
use crate::model::{Checked, Head, UserItem, UserMethod, UserTrait};
use crate::parse::{RawItem, RawMethod, RawTrait, last_segment, source};
use crate::paths::{Carried, CratePath};

/// What differs between the kinds of trait, for the checks they share.
struct Kind {
    /// "an rpc service", for messages.
    what: &'static str,
    /// The type of the context argument.
    context: &'static str,
    argument: &'static Place,
    /// Names of generated functions that a method would collide with.
    reserved: &'static [&'static str],
    /// How to keep such a name on the wire.
    keep_name: &'static str,
}

/// An argument after the receiver.
struct Argument {
    ident: Ident,
    ty: Type,
    bag: Bag,
    docs: Vec<Attribute>,
    is_context: bool,
}

/// Checks the trait itself and each of its methods; `check_method` does what is special to the kind.
fn checked_trait<M>(
    kind: &Kind,
    raw: RawTrait,
    mut head: Head,
    errors: &mut Errors,
    mut check_method: impl FnMut(&Head, &mut RawMethod, &mut Errors) -> (Option<M>, crate::model::Stub),
) -> Checked<M> {
    check_head(kind, &raw, errors);
    let RawTrait {
        mut attrs,
        vis,
        unsafety,
        auto,
        trait_token,
        ident,
        generics,
        supertraits,
        items,
    } = raw;
    reject_own_attributes(&mut attrs, "a trait", errors);
    head.carried = Carried::from_attrs(&attrs);
    let mut methods = Vec::new();
    let mut stubs = Vec::new();
    let mut user_items = Vec::new();
    for item in items {
        match item {
            RawItem::Method(mut method) => {
                let before = errors.count();
                let (checked, stub) = check_method(&head, &mut method, errors);
                if let Some(checked) = checked
                    && errors.count() == before
                {
                    methods.push(checked);
                }
                stubs.push(stub);
                let RawMethod { attrs, sig, body, .. } = *method;
                let good = errors.count() == before;
                user_items.push(UserItem::Method(Box::new(UserMethod {
                    attrs,
                    sig,
                    body,
                    good,
                })));
            }
            RawItem::Other(mut item) => {
                reject_other_item(kind, &mut item, errors);
                user_items.push(UserItem::Other(item));
            }
        }
    }
    let user = UserTrait {
        attrs,
        vis,
        unsafety,
        auto,
        trait_token,
        ident,
        generics,
        supertraits,
        items: user_items,
    };
    Checked {
        user,
        head,
        methods,
        stubs,
    }
}

/// The part of the model that comes from the trait's own line and the macro's arguments.
fn head(bag: &Bag, key: &str, what: &str, raw: &RawTrait, errors: &mut Errors) -> Head {
    let krate = bag
        .path("crate")
        .map_or_else(CratePath::standard, CratePath::user);
    let name = names::levels(bag.text(key), &raw.ident, what, errors);
    Head {
        krate,
        vis: raw.vis.clone(),
        ident: raw.ident.clone(),
        carried: Carried::default(),
        name: name.text,
    }
}

fn check_head(kind: &Kind, raw: &RawTrait, errors: &mut Errors) {
    let what = kind.what;
    if let Some(token) = &raw.unsafety {
        errors.push(token, format!("{what} can't be an unsafe trait; remove `unsafe`"));
    }
    if let Some(token) = &raw.auto {
        errors.push(token, format!("{what} can't be an auto trait; remove `auto`"));
    }
    if !raw.generics.params.is_empty() {
        let way_out = "name concrete types, or write one trait per type";
        errors.push(
            &raw.generics,
            format!("{what} can't be generic, as its messages have fixed schemas; {way_out}"),
        );
    }
    if let Some(clause) = &raw.generics.where_clause {
        errors.push(
            clause,
            format!("{what} can't have a where clause; write bounds as supertraits after the trait's name"),
        );
    }
}

fn reject_other_item(kind: &Kind, item: &mut TraitItem, errors: &mut Errors) {
    let what = kind.what;
    match item {
        TraitItem::Const(item) => {
            reject_own_attributes(&mut item.attrs, "an associated const", errors);
            errors.push(
                &item.ident,
                format!("{what} can't have associated consts; make it a const of the module"),
            );
        }
        TraitItem::Type(item) => {
            reject_own_attributes(&mut item.attrs, "an associated type", errors);
            errors.push(
                &item.ident,
                format!("{what} can't have associated types; name the concrete type in the methods"),
            );
        }
        other => errors.push(
            other,
            format!("{what} consists of `async fn` methods only; move this out of the trait"),
        ),
    }
}

fn reject_own_attributes(attrs: &mut Vec<Attribute>, what: &str, errors: &mut Errors) {
    attrs.retain(|attr| {
        let Some(name) = own_attribute(attr) else {
            return true;
        };
        errors.push(
            attr,
            format!("`#[{name}(…)]` has no meaning on {what}; it goes on methods and their arguments"),
        );
        false
    });
}

/// Checks what every method must be, and takes its arguments apart.
fn signature(kind: &Kind, method: &mut RawMethod, errors: &mut Errors) -> Vec<Argument> {
    if !matches!(method.vis, Visibility::Inherited) {
        errors.push(
            &method.vis,
            "methods of a trait have no visibility of their own; remove it",
        );
    }
    let sig = &method.sig;
    let name = &sig.ident;
    if kind.reserved.iter().any(|reserved| name == reserved) {
        errors.push(
            name,
            format!(
                "`{name}` is the name of a generated function; rename the method{}",
                kind.keep_name
            ),
        );
    }
    if let Some(token) = &sig.constness {
        errors.push(token, "a method can't be const; remove `const`");
    }
    if let Some(token) = &sig.unsafety {
        errors.push(
            token,
            "a method can't be unsafe, as anybody on the broker may call it; remove `unsafe`",
        );
    }
    if let Some(token) = &sig.abi {
        errors.push(token, "a method can't have an ABI of its own; remove `extern`");
    }
    if sig.asyncness.is_none() {
        errors.push(
            sig.fn_token,
            format!("a method of {} is async: write `async fn {name}`", kind.what),
        );
    }
    if !sig.generics.params.is_empty() {
        let way_out = "name concrete types, or write one method per type";
        errors.push(
            &sig.generics,
            format!("a method can't be generic, as its messages have fixed schemas; {way_out}"),
        );
    }
    if let Some(clause) = &sig.generics.where_clause {
        errors.push(clause, "a method can't have a where clause; remove it");
    }
    if let Some(variadic) = &sig.variadic {
        errors.push(variadic, "a method can't be variadic; use a `Vec<T>`");
    }
    receiver(sig, errors);
    arguments(kind, &mut method.sig, method.body.is_some(), errors)
}

fn receiver(sig: &Signature, errors: &mut Errors) {
    let right = "one handler serves many calls at a time; take `&self`";
    match sig.inputs.first() {
        Some(FnArg::Receiver(receiver)) => {
            let plain = receiver.colon_token.is_none()
                && receiver.mutability.is_none()
                && matches!(receiver.reference, Some((_, None)));
            if !plain {
                errors.push(receiver, right);
            }
        }
        _ => errors.push(
            &sig.ident,
            format!("method `{}` has no receiver: {right}", sig.ident),
        ),
    }
}

fn arguments(kind: &Kind, sig: &mut Signature, has_body: bool, errors: &mut Errors) -> Vec<Argument> {
    let mut arguments: Vec<Argument> = Vec::new();
    let mut context = false;
    for (index, input) in sig.inputs.iter_mut().enumerate() {
        let input = match input {
            FnArg::Typed(input) => input,
            FnArg::Receiver(receiver) => {
                reject_own_attributes(&mut receiver.attrs, "the receiver", errors);
                continue;
            }
        };
        let ident = argument_name(&mut input.pat, index, has_body, errors);
        let bag = Bag::take(kind.argument, &mut input.attrs, errors);
        let mut docs = Vec::new();
        input.attrs.retain(|attr| {
            if attr.path().is_ident("doc") {
                docs.push(attr.clone());
                return false;
            }
            if attr.path().is_ident("cfg") {
                errors.push(attr, "an argument can't be conditional, as both sides must agree on it; put `#[cfg]` on the method");
                return false;
            }
            true
        });
        let is_context = context_argument(kind, &input.ty, bag.flag("context"), errors);
        if is_context && context {
            errors.push(
                &*input.ty,
                format!("two context arguments; keep one `&{}`", kind.context),
            );
        }
        context |= is_context;
        arguments.push(Argument {
            ident,
            ty: (*input.ty).clone(),
            bag,
            docs,
            is_context,
        });
    }
    arguments
}

/// The name of an argument. A pattern is an error, and is replaced where it would be one for the compiler too.
fn argument_name(pat: &mut Pat, index: usize, has_body: bool, errors: &mut Errors) -> Ident {
    let as_key = "as it is a key of the message; write `name: Type`";
    let ident = match &*pat {
        Pat::Ident(plain) if plain.subpat.is_none() => {
            if plain.by_ref.is_some() || plain.mutability.is_some() {
                let text = source(plain);
                errors.push(
                    plain,
                    format!(
                        "write `{}` instead of `{text}`; its use is the handler's business",
                        plain.ident
                    ),
                );
            }
            plain.ident.clone()
        }
        Pat::Wild(wild) => {
            errors.push(wild, format!("an argument needs a name, {as_key}"));
            Ident::new(&format!("argument_{index}"), wild.span())
        }
        other => {
            errors.push(other, format!("an argument is a name, not a pattern, {as_key}"));
            Ident::new(&format!("argument_{index}"), other.span())
        }
    };
    if !has_body {
        // Elsewhere the language takes patterns, and the body may use their parts.
        *pat = syn::parse_quote!(#ident);
    }
    ident
}

/// Whether this is the context argument: by the type's name, or by mark.
fn context_argument(kind: &Kind, ty: &Type, mark: Option<Span>, errors: &mut Errors) -> bool {
    let context = kind.context;
    let (inner, is_shared) = match ty {
        Type::Reference(reference) => {
            let plain = reference.mutability.is_none() && reference.lifetime.is_none();
            (&*reference.elem, plain)
        }
        other => (other, false),
    };
    let name = last_segment(inner).map(|segment| segment.ident.to_string());
    let named = name.as_deref() == Some(context);
    if named || mark.is_some() {
        if !is_shared {
            errors.push(ty, format!("the context is taken as `&{context}`"));
        }
        return true;
    }
    let other_kind = ["RequestContext", "MessageContext"]
        .into_iter()
        .find(|other| name.as_deref() == Some(other));
    if let Some(other) = other_kind {
        errors.push(
            ty,
            format!("the context of {} is `&{context}`, not `{other}`", kind.what),
        );
        return true;
    }
    false
}

/// Two methods must not share an address. A pair of which one is conditional is left to the build that has both.
fn unique(
    seen: &mut Vec<(String, Ident, bool)>,
    address: String,
    span: Span,
    ident: &Ident,
    carried: &Carried,
    errors: &mut Errors,
) {
    let conditional = !carried.cfgs().is_empty();
    let other = seen
        .iter()
        .find(|(known, _, maybe)| *known == address && !maybe && !conditional);
    if let Some((_, other, _)) = other {
        errors.push_at(
            span,
            format!("`{address}` is the address of method `{other}` already; give one of them another name"),
        );
    }
    seen.push((address, ident.clone(), conditional));
}

/// The full address is bounded; the prefix counts.
fn check_length(address: &str, span: Span, errors: &mut Errors) {
    const MOST: usize = 200;
    if address.len() > MOST {
        errors.push_at(
            span,
            format!(
                "the address `{address}` has {} bytes, more than {MOST}; shorten it",
                address.len()
            ),
        );
    }
}

/// For the arguments of a stub: the types, where they can be written in a signature of ours.
fn stub_args(arguments: &[Argument]) -> Vec<Option<Type>> {
    let usable = |ty: &Type| {
        let mut errors = Errors::default();
        types::wire(ty, "", &mut errors);
        errors.is_empty().then(|| ty.clone())
    };
    arguments
        .iter()
        .filter(|argument| !argument.is_context)
        .map(|argument| usable(&argument.ty))
        .collect()
}

/// Parses the trait. `None`: not a trait, or not parsable; the error says so.
fn parse_trait(attr: &'static str, item: &TokenStream, errors: &mut Errors) -> Option<RawTrait> {
    if !crate::parse::is_trait(item) {
        let inside = if attr == "topic" {
            "; on a method it goes inside such a trait"
        } else {
            ""
        };
        let text = format!(
            "`#[{attr}]` goes on a trait: `#[commlib::{attr}] trait Name {{ async fn method(&self); }}`{inside}"
        );
        errors.push_at(head_span(item), text);
        return None;
    }
    match syn::parse2(item.clone()) {
        Ok(raw) => Some(raw),
        Err(error) => {
            errors.push_error(error);
            None
        }
    }
}

/// The first token that is not part of an attribute.
fn head_span(item: &TokenStream) -> Span {
    fn first(input: syn::parse::ParseStream<'_>) -> syn::Result<Span> {
        input.call(Attribute::parse_outer)?;
        let span = input.span();
        input.parse::<TokenStream>()?;
        Ok(span)
    }
    syn::parse::Parser::parse2(first, item.clone()).unwrap_or_else(|_| Span::call_site())
}

fn is_unit(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => true,
        ReturnType::Type(_, ty) => is_unit_type(ty),
    }
}

fn is_unit_type(mut ty: &Type) -> bool {
    // A type that comes out of a `macro_rules!` macro is in an invisible group.
    while let Type::Group(group) = ty {
        ty = &group.elem;
    }
    matches!(ty, Type::Tuple(tuple) if tuple.elems.is_empty())
}

/// The span of a literal, or of the method's name if there is none.
fn span_of(literal: Option<&LitStr>, ident: &Ident) -> Span {
    literal.map_or_else(|| ident.span(), LitStr::span)
}
