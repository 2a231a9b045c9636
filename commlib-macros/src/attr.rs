//! Typed parsing of the macros' own attributes.
//!
//! Every list on an item is read (`#[rpc(idempotent)] #[rpc(timeout = "2s")]` is the same as one list), and nothing in a list
//! is passed over: an unknown, duplicate or misplaced key is an error at the key that lists what is allowed.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Ident, Lit, LitStr, Meta, Path, Token};

use crate::diag::Errors;

/// What a key takes after it.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    Text,
    Path,
}

/// One kind of place where attributes of a family may stand.
pub(crate) struct Place {
    /// The attribute as the user writes it.
    attr: &'static str,
    /// "a method", for messages.
    what: &'static str,
    keys: &'static [(&'static str, Takes)],
    /// Whether the list may start with a bare string, and what that is called.
    bare: Option<&'static str>,
}

/// `#[rpc_service(…)]` on a trait.
pub(crate) const SERVICE: Place = Place {
    attr: "rpc_service",
    what: "a trait",
    keys: &[("name", Takes::Text), ("crate", Takes::Path)],
    bare: None,
};
/// `#[rpc(…)]` on a method.
pub(crate) const RPC_METHOD: Place = Place {
    attr: "rpc",
    what: "a method",
    keys: &[
        ("name", Takes::Text),
        ("timeout", Takes::Text),
        ("idempotent", Takes::Nothing),
        ("oneway", Takes::Nothing),
        ("durable", Takes::Nothing),
        ("body", Takes::Nothing),
    ],
    bare: None,
};
/// `#[rpc(…)]` on an argument.
pub(crate) const RPC_ARGUMENT: Place = Place {
    attr: "rpc",
    what: "an argument",
    keys: &[
        ("name", Takes::Text),
        ("default", Takes::Nothing),
        ("context", Takes::Nothing),
    ],
    bare: None,
};
/// `#[topic(…)]` on a trait.
pub(crate) const TOPICS: Place = Place {
    attr: "topic",
    what: "a trait",
    keys: &[("prefix", Takes::Text), ("crate", Takes::Path)],
    bare: None,
};
/// `#[topic(…)]` on a method.
pub(crate) const TOPIC_METHOD: Place = Place {
    attr: "topic",
    what: "a method",
    keys: &[("durable", Takes::Nothing)],
    bare: Some("the topic"),
};
/// `#[topic(…)]` on an argument.
pub(crate) const TOPIC_ARGUMENT: Place = Place {
    attr: "topic",
    what: "an argument",
    keys: &[("context", Takes::Nothing)],
    bare: None,
};

/// The places that share a family with `place`, to say where a misplaced key belongs.
fn family(place: &Place) -> &'static [&'static Place] {
    match place.attr {
        "topic" => &[&TOPICS, &TOPIC_METHOD, &TOPIC_ARGUMENT],
        _ => &[&SERVICE, &RPC_METHOD, &RPC_ARGUMENT],
    }
}

enum Value {
    Nothing,
    Text(LitStr),
    Path(Path),
}

/// The keys found at one place.
#[derive(Default)]
pub(crate) struct Bag {
    found: Vec<(&'static str, Span, Value)>,
    bare: Option<LitStr>,
}

impl Bag {
    /// Where the key stands, if it does.
    pub(crate) fn flag(&self, key: &str) -> Option<Span> {
        self.found
            .iter()
            .find(|(name, ..)| *name == key)
            .map(|(_, span, _)| *span)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&LitStr> {
        self.found.iter().find_map(|(name, _, value)| match value {
            Value::Text(text) if *name == key => Some(text),
            _ => None,
        })
    }

    pub(crate) fn path(&self, key: &str) -> Option<&Path> {
        self.found.iter().find_map(|(name, _, value)| match value {
            Value::Path(path) if *name == key => Some(path),
            _ => None,
        })
    }

    pub(crate) fn bare(&self) -> Option<&LitStr> {
        self.bare.as_ref()
    }

    /// Reads the list of the macro invocation itself.
    pub(crate) fn from_invocation(place: &Place, tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut bag = Bag::default();
        bag.read(place, tokens, errors);
        bag
    }

    /// Reads and removes every list of `place`'s attribute from `attrs`.
    pub(crate) fn take(place: &Place, attrs: &mut Vec<Attribute>, errors: &mut Errors) -> Self {
        let mut bag = Bag::default();
        attrs.retain(|attr| {
            if let Some(name) = conditional_own_attribute(attr) {
                let text = "can't be conditional, as both sides must agree on it; put `#[cfg]` on the method";
                errors.push(attr, format!("`#[{name}]` {text}"));
                return false;
            }
            let Some(name) = own_attribute(attr) else {
                return true;
            };
            if name != place.attr {
                errors.push(
                    attr,
                    format!(
                        "`#[{name}]` has no meaning on {} here; write `#[{}(…)]`",
                        place.what, place.attr
                    ),
                );
                return false;
            }
            match &attr.meta {
                Meta::Path(_) => {}
                Meta::List(list) => bag.read(place, list.tokens.clone(), errors),
                Meta::NameValue(_) => {
                    errors.push(
                        attr,
                        format!("write `#[{}(…)]`, with the keys in parentheses", place.attr),
                    );
                }
            }
            false
        });
        bag
    }

    fn read(&mut self, place: &Place, tokens: TokenStream, errors: &mut Errors) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = self.read_entry(place, input, errors) {
                    errors.push_error(error);
                    skip_entry(input)?;
                }
                if input.is_empty() {
                    break;
                }
                if input.peek(Token![,]) {
                    input.parse::<Token![,]>()?;
                } else {
                    errors.push_error(input.error("expected `,` between keys"));
                    skip_entry(input)?;
                    input.parse::<Option<Token![,]>>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(tokens) {
            errors.push_error(error);
        }
    }

    fn read_entry(&mut self, place: &Place, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
        if input.peek(Lit) {
            return self.read_bare(place, &input.parse()?);
        }
        if !input.peek(Ident::peek_any) {
            return Err(input.error(format!("expected {}", allowed(place))));
        }
        let key = input.call(Ident::parse_any)?;
        let name = key.unraw().to_string();
        let Some((name, takes)) = place.keys.iter().find(|(known, _)| *known == name).copied() else {
            let error = unknown(place, &key, &name);
            skip_entry(input)?;
            return Err(error);
        };
        let value = read_value(name, takes, &key, input)?;
        if self.flag(name).is_some() {
            errors.push(&key, format!("`{name}` is given twice; keep one"));
            return Ok(());
        }
        self.found.push((name, key.span(), value));
        Ok(())
    }

    fn read_bare(&mut self, place: &Place, literal: &Lit) -> syn::Result<()> {
        let Some(what) = place.bare else {
            return Err(syn::Error::new(
                literal.span(),
                format!("expected {}, not a value alone", allowed(place)),
            ));
        };
        let Lit::Str(text) = literal else {
            return Err(syn::Error::new(
                literal.span(),
                format!("{what} is a string: `#[{}(\"…\")]`", place.attr),
            ));
        };
        if self.bare.is_some() {
            return Err(syn::Error::new(
                text.span(),
                format!("{what} is given twice; keep one"),
            ));
        }
        self.bare = Some(text.clone());
        Ok(())
    }
}

/// `rpc` or `topic` if this is an attribute that the macros own, however it is qualified.
pub(crate) fn own_attribute(attr: &Attribute) -> Option<&'static str> {
    let path = attr.path();
    let last = path.segments.last()?;
    let own = ["rpc", "topic"].into_iter().find(|name| last.ident == name)?;
    let qualified_by_us = path.segments.len() == 2
        && path
            .segments
            .first()
            .is_some_and(|first| first.ident == "commlib");
    (path.segments.len() == 1 || qualified_by_us).then_some(own)
}

/// The same in `#[cfg_attr(…, rpc(…))]`, which the compiler would take apart too late.
fn conditional_own_attribute(attr: &Attribute) -> Option<&'static str> {
    if !attr.path().is_ident("cfg_attr") {
        return None;
    }
    let list = attr
        .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
        .ok()?;
    list.iter().skip(1).find_map(|meta| {
        ["rpc", "topic"]
            .into_iter()
            .find(|name| meta.path().is_ident(name))
    })
}

fn read_value(name: &str, takes: Takes, key: &Ident, input: ParseStream<'_>) -> syn::Result<Value> {
    match takes {
        Takes::Nothing => {
            if input.peek(Token![=]) || input.peek(syn::token::Paren) {
                return Err(input.error(format!(
                    "`{name}` takes no value; write `{name}` alone, or leave it out"
                )));
            }
            Ok(Value::Nothing)
        }
        Takes::Text => {
            let wanted = format!("`{name}` takes a string: `{name} = \"…\"`");
            if !input.peek(Token![=]) {
                return Err(syn::Error::new(key.span(), wanted));
            }
            input.parse::<Token![=]>()?;
            if input.peek(LitStr) {
                input.parse().map(Value::Text)
            } else if input.is_empty() {
                Err(syn::Error::new(key.span(), wanted))
            } else {
                Err(input.error(wanted))
            }
        }
        Takes::Path => {
            let wanted =
                format!("`{name}` takes a path, not in quotes: `{name} = my_crate::reexported::commlib`");
            if !input.peek(Token![=]) {
                return Err(syn::Error::new(key.span(), wanted));
            }
            input.parse::<Token![=]>()?;
            let fork = input.fork();
            match fork.call(Path::parse_mod_style) {
                Ok(_) if fork.is_empty() || fork.peek(Token![,]) => {
                    input.call(Path::parse_mod_style).map(Value::Path)
                }
                _ if input.is_empty() => Err(syn::Error::new(key.span(), wanted)),
                _ => Err(input.error(wanted)),
            }
        }
    }
}

fn skip_entry(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// "one of `name`, `timeout`", for messages.
fn allowed(place: &Place) -> String {
    let keys = place
        .keys
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match (place.bare, place.keys.len()) {
        (Some(what), 0) => format!("{what} as a string"),
        (Some(what), _) => format!("{what} as a string, or one of {keys}"),
        (None, 1) => keys,
        (None, _) => format!("one of {keys}"),
    }
}

fn unknown(place: &Place, key: &Ident, name: &str) -> syn::Error {
    let elsewhere = family(place)
        .iter()
        .find(|other| other.keys.iter().any(|(known, _)| *known == name));
    if let Some(other) = elsewhere {
        let text = format!(
            "`{name}` belongs in `#[{}(…)]` on {}, not on {}; here: {}",
            other.attr,
            other.what,
            place.what,
            allowed(place)
        );
        return syn::Error::new(key.span(), text);
    }
    let near = place
        .keys
        .iter()
        .map(|(known, _)| *known)
        .find(|known| distance(known, name) <= 2);
    let hint = near
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    syn::Error::new(
        key.span(),
        format!("unknown key `{name}`, expected {}{hint}", allowed(place)),
    )
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b = b.chars().collect::<Vec<_>>();
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
