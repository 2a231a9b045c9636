//! Which types can travel. A message outlives the call and is rebuilt elsewhere, so it owns everything and is named in full.

use syn::visit::Visit;
use syn::{GenericArgument, Lifetime, PathArguments, ReturnType, Type, TypeReference};

use crate::diag::Errors;
use crate::model::Reply;
use crate::parse::{last_segment, source};

/// Checks a type that travels; `what` names its place: "argument `a`".
pub(crate) fn wire(ty: &Type, what: &str, errors: &mut Errors) {
    WireType { what, errors }.visit_type(ty);
}

struct WireType<'a> {
    what: &'a str,
    errors: &'a mut Errors,
}

impl<'ast> Visit<'ast> for WireType<'_> {
    fn visit_type(&mut self, ty: &'ast Type) {
        let what = self.what;
        match ty {
            Type::Reference(reference) => {
                let owned = owned(reference);
                let written = source(reference);
                self.errors.push(ty, format!("{what} can't be borrowed, as it is rebuilt from the message; use `{owned}` instead of `{written}`"));
            }
            Type::ImplTrait(_) => {
                self.errors.push(
                    ty,
                    format!("`impl Trait` can't travel in {what}: name the concrete type"),
                );
            }
            Type::TraitObject(_) => {
                let hint = "name a concrete type, or an enum of the types it may be";
                self.errors
                    .push(ty, format!("`dyn Trait` can't travel in {what}: {hint}"));
            }
            Type::BareFn(_) => self.errors.push(
                ty,
                format!("a function can't travel in {what}: send data instead"),
            ),
            Type::Ptr(_) => self.errors.push(
                ty,
                format!("a raw pointer can't travel in {what}: send the value itself"),
            ),
            Type::Never(_) => self
                .errors
                .push(ty, format!("`!` has no values to send in {what}; leave it out")),
            Type::Infer(_) => self
                .errors
                .push(ty, format!("`_` is not known here: name the type of {what}")),
            _ => syn::visit::visit_type(self, ty),
        }
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            let what = self.what;
            self.errors.push(
                lifetime,
                format!("{what} can't borrow for `{lifetime}`: messages are owned; use an owned type, or `'static` with `Cow`"),
            );
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first()
            && first.ident == "Self"
        {
            let what = self.what;
            self.errors.push(
                &first.ident,
                format!(
                    "`Self` is the handler, which a client does not know; name a concrete type in {what}"
                ),
            );
        }
        syn::visit::visit_path(self, path);
    }

    // The length of an array is an expression, not a type that travels.
    fn visit_expr(&mut self, _: &'ast syn::Expr) {}
}

/// What to write instead of a reference.
fn owned(reference: &TypeReference) -> String {
    if let Type::Slice(slice) = &*reference.elem {
        return format!("Vec<{}>", source(&slice.elem));
    }
    let name = last_segment(&reference.elem).map(|segment| segment.ident.to_string());
    match name.as_deref() {
        Some("str") => "String".to_owned(),
        Some("Path") => "PathBuf".to_owned(),
        Some("CStr") => "CString".to_owned(),
        Some("OsStr") => "OsString".to_owned(),
        _ => source(&reference.elem),
    }
}

/// Reads the reply from the signature: `T`, `Result<T, E>` or nothing.
pub(crate) fn reply(output: &ReturnType, errors: &mut Errors) -> Option<Reply> {
    let ReturnType::Type(_, written) = output else {
        return Some(Reply {
            ok: syn::parse_quote!(()),
            error: None,
        });
    };
    let before = errors.count();
    let reply = match last_segment(written) {
        Some(segment) if segment.ident == "Result" => {
            let types = type_arguments(&segment.arguments);
            let [ok, error] = types.as_slice() else {
                errors.push(
                    written,
                    format!(
                        "`{}` hides its error type, which is part of the contract; write `Result<T, E>` in full",
                        source(written)
                    ),
                );
                return None;
            };
            Reply {
                ok: (*ok).clone(),
                error: Some((*error).clone()),
            }
        }
        _ => Reply {
            ok: (**written).clone(),
            error: None,
        },
    };
    wire(&reply.ok, "the reply", errors);
    if let Some(error) = &reply.error {
        wire(error, "the error", errors);
    }
    (errors.count() == before).then_some(reply)
}

/// Whether this is `Result<(), E>`, or an alias of that name that hides `E`.
pub(crate) fn is_result_of_unit(ty: &Type) -> bool {
    last_segment(ty)
        .filter(|segment| segment.ident == "Result")
        .is_some_and(|segment| {
            type_arguments(&segment.arguments)
                .first()
                .is_some_and(|ok| super::is_unit_type(ok))
        })
}

fn type_arguments(arguments: &PathArguments) -> Vec<&Type> {
    let PathArguments::AngleBracketed(list) = arguments else {
        return Vec::new();
    };
    list.args
        .iter()
        .filter_map(|argument| match argument {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        })
        .collect()
}
