//! Parses a trait as far as its signatures.
//!
//! Method bodies are kept as tokens: a syntax error in a body is then reported by the compiler, in its own words and in its
//! own place. What the macros do not support (generics, associated types …) is parsed all the same, so that the validation
//! can say what to write instead.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Generics, Ident, Signature, Token, TraitItem, TypeParamBound, Visibility};

/// A trait as the user wrote it.
pub(crate) struct RawTrait {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) unsafety: Option<Token![unsafe]>,
    pub(crate) auto: Option<Token![auto]>,
    pub(crate) trait_token: Token![trait],
    pub(crate) ident: Ident,
    /// With the where clause.
    pub(crate) generics: Generics,
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    pub(crate) items: Vec<RawItem>,
}

pub(crate) enum RawItem {
    Method(Box<RawMethod>),
    /// An associated const or type, or a macro call.
    Other(Box<TraitItem>),
}

pub(crate) struct RawMethod {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    /// The default body with its braces.
    pub(crate) body: Option<TokenTree>,
}

impl Parse for RawTrait {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let unsafety = input.parse()?;
        let auto = input.parse()?;
        let trait_token = input.parse()?;
        let ident = input.parse()?;
        let mut generics: Generics = input.parse()?;
        let mut supertraits = Punctuated::new();
        if input.parse::<Option<Token![:]>>()?.is_some() {
            while !input.peek(Token![where]) && !input.peek(syn::token::Brace) {
                supertraits.push_value(input.parse()?);
                if !input.peek(Token![+]) {
                    break;
                }
                supertraits.push_punct(input.parse()?);
            }
        }
        generics.where_clause = input.parse()?;
        let content;
        syn::braced!(content in input);
        let mut items = Vec::new();
        while !content.is_empty() {
            items.push(content.parse()?);
        }
        Ok(RawTrait {
            attrs,
            vis,
            unsafety,
            auto,
            trait_token,
            ident,
            generics,
            supertraits,
            items,
        })
    }
}

impl Parse for RawItem {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let start = input.fork();
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        if !starts_a_function(input) {
            let item = start.parse()?;
            // `start` is a fork: bring `input` to the same place.
            while input.cursor() != start.cursor() {
                input.parse::<TokenTree>()?;
            }
            return Ok(RawItem::Other(Box::new(item)));
        }
        let sig = input.parse()?;
        let body = if input.peek(syn::token::Brace) {
            Some(input.parse()?)
        } else {
            input.parse::<Token![;]>()?;
            None
        };
        Ok(RawItem::Method(Box::new(RawMethod {
            attrs,
            vis,
            sig,
            body,
        })))
    }
}

fn starts_a_function(input: ParseStream<'_>) -> bool {
    if input.peek(Token![const]) {
        return input.peek2(Token![fn])
            || input.peek2(Token![async])
            || input.peek2(Token![unsafe])
            || input.peek2(Token![extern]);
    }
    input.peek(Token![fn])
        || input.peek(Token![async])
        || input.peek(Token![unsafe])
        || input.peek(Token![extern])
}

/// Whether these tokens are a trait at all; anything else gets an error that says where the attribute goes.
pub(crate) fn is_trait(item: &TokenStream) -> bool {
    fn head(input: ParseStream<'_>) -> syn::Result<bool> {
        input.call(Attribute::parse_outer)?;
        input.parse::<Visibility>()?;
        input.parse::<Option<Token![unsafe]>>()?;
        input.parse::<Option<Token![auto]>>()?;
        let is_trait = input.peek(Token![trait]);
        input.parse::<TokenStream>()?;
        Ok(is_trait)
    }
    syn::parse::Parser::parse2(head, item.clone()).unwrap_or(false)
}

/// The last segment of a path-like type: `RequestContext` of `&commlib::RequestContext`.
pub(crate) fn last_segment(ty: &syn::Type) -> Option<&syn::PathSegment> {
    match ty {
        syn::Type::Path(path) => path.path.segments.last(),
        syn::Type::Group(group) => last_segment(&group.elem),
        syn::Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

/// Source text for use in messages: as a person would write it, without the spaces of the token printer.
pub(crate) fn source(tokens: impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ' ' {
            let before = out.chars().last().unwrap_or(' ');
            let after = chars.peek().copied().unwrap_or(' ');
            if "<&:([".contains(before) || "<>,:;)]".contains(after) {
                continue;
            }
        }
        out.push(c);
    }
    out
}
