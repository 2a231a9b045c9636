//! How generated code names things, and which of the user's attributes go where.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, Ident, Lit, Meta, Path};

/// The path of the commlib crate in the user's crate: `::commlib`, or what `crate = path` says.
#[derive(Clone)]
pub(crate) struct CratePath(TokenStream);

impl CratePath {
    pub(crate) fn standard() -> Self {
        let span = Span::mixed_site();
        CratePath(quote_spanned!(span=> ::commlib))
    }

    pub(crate) fn user(path: &Path) -> Self {
        CratePath(path.to_token_stream())
    }

    /// `<crate>::__private`, where everything lives that only generated code needs.
    pub(crate) fn private(&self) -> TokenStream {
        let krate = &self.0;
        quote!(#krate::__private)
    }
}

impl ToTokens for CratePath {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.0.to_tokens(tokens);
    }
}

/// An identifier of ours: it can't meet a local variable of the user's.
pub(crate) fn internal(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// An identifier of ours made from a user's: `method_add`. Unique where the user's are, as the user's part is kept as it is.
pub(crate) fn internal_for(prefix: &str, ident: &Ident) -> Ident {
    format_ident!("{prefix}_{}", ident.unraw(), span = Span::mixed_site())
}

/// A span for code of ours that is about `tokens`: errors land there, names resolve as ours.
pub(crate) fn about(tokens: &impl Spanned) -> Span {
    Span::mixed_site().located_at(tokens.span())
}

/// The user's attributes, sorted by where they are carried. The trait itself keeps all of them.
#[derive(Clone, Default)]
pub(crate) struct Carried {
    docs: Vec<Attribute>,
    cfgs: Vec<Attribute>,
    deprecated: Vec<Attribute>,
    must_use: Vec<Attribute>,
    lints: Vec<Attribute>,
}

impl Carried {
    pub(crate) fn from_attrs(attrs: &[Attribute]) -> Self {
        let mut carried = Carried::default();
        for attr in attrs {
            let Some(name) = attr.path().get_ident().map(ToString::to_string) else {
                continue;
            };
            match name.as_str() {
                "doc" => carried.docs.push(attr.clone()),
                "cfg" => carried.cfgs.push(attr.clone()),
                "deprecated" => carried.deprecated.push(attr.clone()),
                "must_use" => carried.must_use.push(attr.clone()),
                "allow" | "warn" | "deny" | "forbid" => carried.lints.push(attr.clone()),
                "expect" => carried.lints.push(as_allow(attr)),
                _ => {}
            }
        }
        carried
    }

    /// For every derived item.
    pub(crate) fn cfgs(&self) -> &[Attribute] {
        &self.cfgs
    }

    /// For the method of a generated client, publisher or subscriber; `otherwise` is the doc comment if the user wrote none.
    pub(crate) fn for_method(&self, otherwise: &str) -> TokenStream {
        let Carried {
            cfgs,
            deprecated,
            must_use,
            lints,
            ..
        } = self;
        let docs = self.docs_or(otherwise);
        quote!(#(#cfgs)* #docs #(#deprecated)* #(#must_use)* #(#lints)*)
    }

    /// For a generated struct: our own first sentence, then the docs of the trait.
    pub(crate) fn for_struct(&self, first: &str) -> TokenStream {
        let Carried {
            docs,
            cfgs,
            deprecated,
            lints,
            ..
        } = self;
        let gap = (!docs.is_empty()).then(|| quote!(#[doc = ""]));
        let first = format!(" {first}");
        quote!(#(#cfgs)* #[doc = #first] #gap #(#docs)* #(#deprecated)* #(#lints)*)
    }

    fn docs_or(&self, otherwise: &str) -> TokenStream {
        // `#[doc(hidden)]` and the like are no text.
        if self.docs.iter().any(|doc| matches!(doc.meta, Meta::NameValue(_))) {
            let docs = &self.docs;
            quote!(#(#docs)*)
        } else {
            let docs = &self.docs;
            let text = format!(" {otherwise}");
            quote!(#(#docs)* #[doc = #text])
        }
    }

    /// The doc comment as one string expression, for the contract: the text, without the blank that follows `///`.
    pub(crate) fn doc_text(&self) -> TokenStream {
        let values = self.docs.iter().filter_map(|attr| match &attr.meta {
            Meta::NameValue(pair) => Some(&pair.value),
            _ => None,
        });
        let mut lines = Vec::new();
        let mut pieces = Vec::new();
        for value in values {
            if let Expr::Lit(expr) = value
                && let Lit::Str(text) = &expr.lit
            {
                lines.extend(
                    text.value()
                        .split('\n')
                        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()),
                );
            } else {
                // `#[doc = include_str!("…")]`: its text is known to the compiler only.
                let text = lines
                    .drain(..)
                    .map(|line: String| line + "\n")
                    .collect::<String>();
                pieces.push(quote!(#text, #value, "\n",));
            }
        }
        let text = lines.join("\n");
        if pieces.is_empty() {
            let text = text.trim();
            quote!(#text)
        } else {
            quote!(::core::concat!(#(#pieces)* #text))
        }
    }
}

/// An expectation can only be met once, on the trait; elsewhere the lint is merely allowed.
fn as_allow(attr: &Attribute) -> Attribute {
    let mut attr = attr.clone();
    if let Meta::List(list) = &mut attr.meta {
        let span = list.path.span();
        list.path = Ident::new("allow", span).into();
    }
    attr
}
