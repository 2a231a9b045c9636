//! The error sink: everything wrong with one use of a macro is collected here and reported at once.

use proc_macro2::Span;
use quote::ToTokens;

/// Collected errors. A stage notes [`Errors::count`] before it checks a part; the part is good if the count is the same after.
#[derive(Default)]
pub(crate) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Reports an error that concerns `tokens`, underlining all of them.
    pub(crate) fn push(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.0.push(syn::Error::new_spanned(tokens, message));
    }

    /// Reports an error at one place that is not a token of the user's.
    pub(crate) fn push_at(&mut self, span: Span, message: impl std::fmt::Display) {
        self.0.push(syn::Error::new(span, message));
    }

    /// Takes over an error of the parser.
    pub(crate) fn push_error(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<syn::Error> {
        self.0
    }
}
