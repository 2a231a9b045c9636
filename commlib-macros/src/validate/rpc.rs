//! The rules of `#[rpc_service]`.

use proc_macro2::TokenStream;

use super::{
    Argument, Kind, check_length, checked_trait, head, is_unit, names, parse_trait, signature, stub_args,
    types, unique,
};
use crate::attr::{Bag, RPC_ARGUMENT, RPC_METHOD, SERVICE};
use crate::diag::Errors;
use crate::model::{Checked, Field, Head, Reply, RpcArg, RpcMethod, Stub};
use crate::parse::RawMethod;
use crate::paths::Carried;

const KIND: Kind = Kind {
    what: "an rpc service",
    context: "RequestContext",
    argument: &RPC_ARGUMENT,
    reserved: &["new", "contract"],
    keep_name: " and keep its name on the wire with `#[rpc(name = \"…\")]`",
};

/// Checks a service. `None` if it is not even a trait.
pub(crate) fn service(
    attr: TokenStream,
    item: &TokenStream,
    errors: &mut Errors,
) -> Option<Checked<RpcMethod>> {
    let bag = Bag::from_invocation(&SERVICE, attr, errors);
    let raw = parse_trait("rpc_service", item, errors)?;
    let head = head(&bag, "name", "the name of a service", &raw, errors);
    let mut addresses = Vec::new();
    Some(checked_trait(&KIND, raw, head, errors, |head, raw, errors| {
        let (method, stub) = method(head, raw, errors);
        if let Some(method) = &method {
            let address = format!("{}.{}", head.name, method.wire);
            check_length(&address, method.wire_span, errors);
            unique(
                &mut addresses,
                address,
                method.wire_span,
                &method.ident,
                &method.carried,
                errors,
            );
        }
        (method, stub)
    }))
}

fn method(_head: &Head, raw: &mut RawMethod, errors: &mut Errors) -> (Option<RpcMethod>, Stub) {
    let before = errors.count();
    let bag = Bag::take(&RPC_METHOD, &mut raw.attrs, errors);
    let arguments = signature(&KIND, raw, errors);
    let ident = raw.sig.ident.clone();
    let carried = Carried::from_attrs(&raw.attrs);
    let wire = names::level(bag.text("name"), &ident, "method name", errors);
    let timeout = bag.text("timeout").and_then(|text| names::duration(text, errors));
    check_oneway(&bag, raw, errors);
    check_durable(&bag, errors);
    let stub_args = stub_args(&arguments);
    let args = arguments
        .into_iter()
        .map(|argument| rpc_arg(argument, errors))
        .collect::<Vec<_>>();
    let reply = types::reply(&raw.sig.output, errors);
    let stub = Stub {
        carried: carried.clone(),
        ident: ident.clone(),
        args: stub_args,
        reply: reply.as_ref().map(|reply| Reply {
            ok: reply.ok.clone(),
            error: reply.error.clone(),
        }),
    };
    let mut method = RpcMethod {
        ident,
        carried,
        wire: wire.text,
        wire_span: wire.span,
        args,
        body: false,
        reply: match reply {
            Some(reply) => reply,
            None => return (None, stub),
        },
        timeout,
        idempotent: bag.flag("idempotent").is_some(),
        oneway: bag.flag("oneway").is_some(),
        durable: bag.flag("durable").is_some(),
    };
    check_keys(&method, errors);
    if let Some(span) = bag.flag("body") {
        method.body = true;
        let fields = method.fields().collect::<Vec<_>>();
        match fields.as_slice() {
            [field] if field.default => {
                errors.push(&field.ident, "with `body` the argument is the whole body and can't be absent; remove `default`");
            }
            [_] => {}
            [] => errors.push_at(span, "`body` makes the argument the whole body, but there is no argument; remove it"),
            [_, second, ..] => errors.push(
                &second.ident,
                "`body` is for a sole argument; put these in one struct, or remove `body` to send an object keyed by their names",
            ),
        }
    }
    ((errors.count() == before).then_some(method), stub)
}

fn check_oneway(bag: &Bag, raw: &RawMethod, errors: &mut Errors) {
    let Some(span) = bag.flag("oneway") else { return };
    if !is_unit(&raw.sig.output) {
        let text = "a oneway method has no reply; remove the return type, or `oneway`";
        errors.push(&raw.sig.output, text);
    }
    if bag.flag("idempotent").is_some() {
        let text = "`oneway` and `idempotent` exclude each other: without a reply nothing is ever retried";
        errors.push_at(span, text);
    }
}

/// What both say is the same of its callers, and not of its handler.
fn check_durable(bag: &Bag, errors: &mut Errors) {
    if let (Some(_), Some(span)) = (bag.flag("durable"), bag.flag("idempotent")) {
        let text = "a `durable` method runs at least once anyway, and its calls are told apart by their idempotency keys; remove `idempotent`";
        errors.push_at(span, text);
    }
}

fn rpc_arg(argument: Argument, errors: &mut Errors) -> RpcArg {
    let Argument {
        ident,
        ty,
        bag,
        docs,
        is_context,
    } = argument;
    if is_context {
        for key in ["name", "default"] {
            if let Some(span) = bag.flag(key) {
                errors.push_at(
                    span,
                    format!("`{key}` has no meaning on the context, which never travels; remove it"),
                );
            }
        }
        return RpcArg::Context;
    }
    types::wire(&ty, &format!("argument `{ident}`"), errors);
    let wire = names::key(bag.text("name"), &ident, errors).text;
    RpcArg::Field(Box::new(Field {
        ident,
        ty,
        wire,
        default: bag.flag("default").is_some(),
        docs: Carried::from_attrs(&docs),
    }))
}

/// Two arguments must not share a key.
fn check_keys(method: &RpcMethod, errors: &mut Errors) {
    let fields = method.fields().collect::<Vec<_>>();
    for (index, field) in fields.iter().enumerate() {
        if let Some(other) = fields.iter().take(index).find(|other| other.wire == field.wire) {
            let text = format!(
                "`{}` is the key of argument `{}` already; give one of them another name",
                field.wire, other.ident
            );
            errors.push(&field.ident, text);
        }
    }
}
