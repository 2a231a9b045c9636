//! The rules of `#[topic]`.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, LitStr, ReturnType};

use super::{
    Argument, Kind, check_length, checked_trait, head, is_unit, names, parse_trait, signature, span_of,
    stub_args, types, unique,
};
use crate::attr::{Bag, TOPIC_ARGUMENT, TOPIC_METHOD, TOPICS};
use crate::diag::Errors;
use crate::model::{Checked, Head, Stub, Topic, TopicArg, Value};
use crate::parse::RawMethod;
use crate::paths::Carried;

const KIND: Kind = Kind {
    what: "a topic trait",
    context: "MessageContext",
    argument: &TOPIC_ARGUMENT,
    reserved: &["new", "contract"],
    keep_name: " and keep its topic with `#[topic(\"…\")]`",
};

/// A tuple of captures has at most this many types.
const MOST_CAPTURES: usize = 8;

/// Checks a set of topics. `None` if it is not even a trait.
pub(crate) fn topics(attr: TokenStream, item: &TokenStream, errors: &mut Errors) -> Option<Checked<Topic>> {
    if !crate::parse::is_trait(item) {
        // `#[topic("…")]` of a method that stands outside such a trait.
        parse_trait("topic", item, errors)?;
    }
    let bag = Bag::from_invocation(&TOPICS, attr, errors);
    let raw = parse_trait("topic", item, errors)?;
    let head = head(&bag, "prefix", "the prefix of topics", &raw, errors);
    let mut addresses = Vec::new();
    Some(checked_trait(&KIND, raw, head, errors, |head, raw, errors| {
        let (topic, stub) = topic(head, raw, errors);
        if let Some(topic) = &topic {
            check_length(&topic.template, topic.template_span, errors);
            let address = anonymous(&topic.template);
            unique(
                &mut addresses,
                address,
                topic.template_span,
                &topic.ident,
                &topic.carried,
                errors,
            );
        }
        (topic, stub)
    }))
}

fn topic(head: &Head, raw: &mut RawMethod, errors: &mut Errors) -> (Option<Topic>, Stub) {
    let before = errors.count();
    let bag = Bag::take(&TOPIC_METHOD, &mut raw.attrs, errors);
    let arguments = signature(&KIND, raw, errors);
    let ident = raw.sig.ident.clone();
    let carried = Carried::from_attrs(&raw.attrs);
    let durable = bag.flag("durable").is_some();
    let fallible = fallible(durable, &raw.sig.output, errors);
    let stub = Stub {
        carried: carried.clone(),
        ident: ident.clone(),
        args: stub_args(&arguments),
        reply: None,
    };
    for argument in arguments.iter().filter(|argument| !argument.is_context) {
        types::wire(&argument.ty, &format!("argument `{}`", argument.ident), errors);
    }
    let span = span_of(bag.bare(), &ident);
    let template = bag
        .bare()
        .map_or_else(|| ident.unraw().to_string(), LitStr::value);
    let Some(names) = template_names(&template, span, errors) else {
        return (None, stub);
    };
    let Some(captures) = captures(&names, &arguments, span, errors) else {
        return (None, stub);
    };
    let Some(message) = message(&captures, &arguments, &ident, errors) else {
        return (None, stub);
    };
    let args = arguments
        .into_iter()
        .map(
            |Argument {
                 ident,
                 ty,
                 is_context,
                 ..
             }| {
                if is_context {
                    TopicArg::Context
                } else {
                    TopicArg::Value(Box::new(Value { ident, ty }))
                }
            },
        )
        .collect();
    let template = format!("{}.{template}", head.name);
    let topic = Topic {
        ident,
        carried,
        template,
        template_span: span,
        args,
        captures,
        message,
        durable,
        fallible,
    };
    ((errors.count() == before).then_some(topic), stub)
}

/// Where it says that the handler of a topic can fail. Only that of a durable one can: nobody would learn of it.
fn fallible(durable: bool, output: &ReturnType, errors: &mut Errors) -> Option<Span> {
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    if durable && types::is_result_of_unit(ty) {
        return Some(ty.span());
    }
    if !is_unit(output) {
        errors.push(
            output,
            if durable {
                "a message on a topic has no reply; return nothing, or `Result<(), E>` where an error has the message handled again"
            } else {
                "a message on a topic has no reply; remove the return type, or use `#[commlib::rpc_service]`"
            },
        );
    }
    None
}

/// The names in braces, in order. `None` if the template is no template.
fn template_names(template: &str, span: Span, errors: &mut Errors) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let before = errors.count();
    for level in template.split('.') {
        if let Some(name) = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            if name.is_empty() || !names::is_level(name) {
                errors.push_at(
                    span,
                    format!("bad capture `{level}`: write `{{name}}`, with the name of an argument"),
                );
            } else if names.iter().any(|known| known == name) {
                errors.push_at(
                    span,
                    format!("`{{{name}}}` is captured twice; a capture stands for one level"),
                );
            } else {
                names.push(name.to_owned());
            }
        } else if level.contains(['{', '}']) {
            errors.push_at(
                span,
                format!("bad level `{level}`: a capture is a whole level, `a.{{name}}.b`"),
            );
        } else if level.contains(['*', '#']) {
            let text = "has a wildcard, but a topic is published to; write `{name}` for a level that varies (subscribers can take any)";
            errors.push_at(span, format!("level `{level}` {text}"));
        } else if level.is_empty() {
            errors.push_at(
                span,
                format!(
                    "empty level in the topic `{template}`: {}, and levels are joined by single dots",
                    names::LEVEL
                ),
            );
        } else if !names::is_level(level) {
            errors.push_at(
                span,
                format!("bad level `{level}` in the topic `{template}`: {}", names::LEVEL),
            );
        }
    }
    if names.len() > MOST_CAPTURES {
        errors.push_at(
            span,
            format!(
                "{} captures, more than {MOST_CAPTURES}; put some into the message",
                names.len()
            ),
        );
    }
    (errors.count() == before).then_some(names)
}

/// The arguments that the names in braces stand for.
fn captures(names: &[String], arguments: &[Argument], span: Span, errors: &mut Errors) -> Option<Vec<usize>> {
    let mut captures = Vec::new();
    let before = errors.count();
    for name in names {
        match arguments
            .iter()
            .position(|argument| argument.ident.unraw() == name.as_str())
        {
            Some(index) if arguments.get(index).is_some_and(|argument| argument.is_context) => {
                errors.push_at(
                    span,
                    format!("`{{{name}}}` is the context argument, which never travels"),
                );
            }
            Some(index) => captures.push(index),
            None => errors.push_at(
                span,
                format!("`{{{name}}}` is no argument of the method; add `{name}: Type` to it"),
            ),
        }
    }
    (errors.count() == before).then_some(captures)
}

/// The one argument that is left.
fn message(captures: &[usize], arguments: &[Argument], method: &Ident, errors: &mut Errors) -> Option<usize> {
    let left = arguments
        .iter()
        .enumerate()
        .filter(|(index, argument)| !argument.is_context && !captures.contains(index))
        .collect::<Vec<_>>();
    match left.as_slice() {
        [(index, _)] => Some(*index),
        [] => {
            errors.push(
                method,
                "no argument is left for the message; add one that is not in the topic's braces",
            );
            None
        }
        [(_, first), (_, second), ..] => {
            let (first, second) = (&first.ident, &second.ident);
            let text = format!(
                "both `{first}` and `{second}` are left for the message; put them in one struct, or one into the topic as `{{{second}}}`"
            );
            errors.push(second, text);
            None
        }
    }
}

/// The template without the names, as two topics that differ in those alone are one topic.
fn anonymous(template: &str) -> String {
    template
        .split('.')
        .map(|level| if level.starts_with('{') { "{}" } else { level })
        .collect::<Vec<_>>()
        .join(".")
}
