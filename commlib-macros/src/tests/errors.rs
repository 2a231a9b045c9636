//! The errors users get: that there is one, that there is only one, and that it says what to write instead.

use super::{good, rpc, says, topic, topic_method};

/// One method in an otherwise good service.
fn method(text: &str) -> (String, Vec<String>) {
    rpc("", &format!("trait X {{ {text} }}"))
}

#[test]
fn the_attribute_goes_on_a_trait() {
    for item in [
        "struct X;",
        "fn f() {}",
        "impl X {}",
        "#[derive(Debug)] pub enum X {}",
    ] {
        says(rpc("", item), &["#[rpc_service]` goes on a trait"]);
        says(topic("", item), &["#[topic]` goes on a trait"]);
    }
}

#[test]
fn keys_of_the_service() {
    let keys = |attr: &str| rpc(attr, "trait X {}");
    good(keys(r#"name = "a.b-c_D.1", crate = crate::x,"#));
    says(
        keys("nmae = \"x\""),
        &["unknown key `nmae`", "`name`, `crate`", "did you mean `name`?"],
    );
    says(
        keys("version = 1"),
        &["unknown key `version`, expected one of `name`, `crate`"],
    );
    says(
        keys("timeout = \"1s\""),
        &["`timeout` belongs in `#[rpc(…)]` on a method", "not on a trait"],
    );
    says(keys("name = \"a\", name = \"b\""), &["`name` is given twice"]);
    says(keys("name"), &["`name` takes a string"]);
    says(keys("name = 3"), &["`name` takes a string"]);
    says(
        keys("crate = \"commlib\""),
        &["`crate` takes a path, not in quotes"],
    );
    says(keys("crate = a::<b>"), &["`crate` takes a path"]);
    says(
        keys("\"calculator\""),
        &["expected one of `name`, `crate`, not a value alone"],
    );
    says(keys("name = \"a\" crate = b"), &["expected `,`"]);
    for name in ["", "a b", "a..b", ".a", "a.", "a.*", "ä"] {
        says(keys(&format!("name = {name:?}")), &["the name of a service"]);
    }
}

#[test]
fn keys_of_a_method() {
    good(method(
        "#[rpc(idempotent)] #[rpc(timeout = \"1.5s\", name = \"b\")] async fn a(&self);",
    ));
    good(method("#[rpc] async fn a(&self);"));
    says(
        method("#[rpc(tiemout = \"1s\")] async fn a(&self);"),
        &["unknown key `tiemout`", "did you mean `timeout`?"],
    );
    says(
        method("#[rpc(idempotent)] #[rpc(idempotent)] async fn a(&self);"),
        &["`idempotent` is given twice"],
    );
    says(
        method("#[rpc(default)] async fn a(&self);"),
        &["`default` belongs in `#[rpc(…)]` on an argument"],
    );
    says(
        method("#[rpc(idempotent = true)] async fn a(&self);"),
        &["`idempotent` takes no value"],
    );
    says(
        method("#[rpc = \"a\"] async fn a(&self);"),
        &["with the keys in parentheses"],
    );
    says(
        method("#[topic(\"a\")] async fn a(&self);"),
        &["`#[topic]` has no meaning", "`#[rpc(…)]`"],
    );
    says(
        method("#[rpc(name = \"a.b\")] async fn a(&self);"),
        &["bad method name `a.b`"],
    );
    says(
        method("async fn größe(&self);"),
        &["bad method name `größe`", "#[rpc(name = \"…\")]"],
    );
    for timeout in ["2", "2 s", "soon", "-1s", "1d"] {
        says(
            method(&format!("#[rpc(timeout = {timeout:?})] async fn a(&self);")),
            &["is no duration", "500ms"],
        );
    }
    says(
        method("#[rpc(timeout = \"0s\")] async fn a(&self);"),
        &["more than zero"],
    );
    says(
        method("#[rpc(oneway)] async fn a(&self) -> u8;"),
        &["a oneway method has no reply"],
    );
    good(method("#[rpc(oneway)] async fn a(&self) -> ();"));
    good(method("#[rpc(durable)] async fn a(&self) -> u8;"));
    good(method("#[rpc(durable, oneway)] async fn a(&self);"));
    says(
        method("#[rpc(durable, idempotent)] async fn a(&self);"),
        &[
            "a `durable` method runs at least once anyway",
            "remove `idempotent`",
        ],
    );
    says(
        method("#[rpc(oneway, idempotent)] async fn a(&self);"),
        &["exclude each other"],
    );
    says(
        method("#[rpc(body)] async fn a(&self, a: u8, b: u8);"),
        &["`body` is for a sole argument"],
    );
    says(
        method("#[rpc(body)] async fn a(&self, ctx: &RequestContext);"),
        &["there is no argument"],
    );
    good(method(
        "#[rpc(body)] async fn a(&self, ctx: &RequestContext, b: u8);",
    ));
    says(
        method("#[rpc(body)] async fn a(&self, #[rpc(default)] a: u8);"),
        &["remove `default`"],
    );
}

#[test]
fn keys_are_not_conditional() {
    says(
        method("#[cfg_attr(unix, rpc(timeout = \"1s\"))] async fn a(&self);"),
        &["`#[rpc]` can't be conditional", "`#[cfg]`"],
    );
    says(
        method("async fn a(&self, #[cfg_attr(unix, rpc(default))] a: u8);"),
        &["can't be conditional"],
    );
    good(method("#[cfg_attr(unix, inline)] async fn a(&self);"));
}

#[test]
fn keys_of_an_argument() {
    says(
        method("async fn a(&self, #[rpc(deflaut)] a: u8);"),
        &["unknown key `deflaut`", "did you mean `default`?"],
    );
    says(
        method("async fn a(&self, #[rpc(idempotent)] a: u8);"),
        &["belongs in `#[rpc(…)]` on a method"],
    );
    says(
        method("async fn a(&self, #[rpc(name = \"b\")] a: u8, b: u8);"),
        &["`b` is the key of argument `a` already"],
    );
    says(
        method("async fn a(&self, #[rpc(name = \"\")] a: u8);"),
        &["can't be empty"],
    );
    says(
        method("async fn a(&self, #[cfg(x)] a: u8);"),
        &["put `#[cfg]` on the method"],
    );
    says(
        method("async fn a(#[rpc(default)] &self);"),
        &["no meaning on the receiver"],
    );
    says(
        method("async fn a(&self, #[rpc(name = \"c\")] ctx: &RequestContext);"),
        &["`name` has no meaning on the context"],
    );
}

#[test]
fn own_attributes_elsewhere_in_the_trait() {
    says(
        rpc("", "#[rpc(name = \"a\")] trait X {}"),
        &["no meaning on a trait"],
    );
    let (_, errors) = method("#[rpc(name = \"a\")] const A: u8;");
    assert!(
        errors
            .iter()
            .any(|error| error.contains("no meaning on an associated const")),
        "{errors:?}"
    );
    assert!(
        errors
            .iter()
            .any(|error| error.contains("can't have associated consts")),
        "{errors:?}"
    );
}

#[test]
fn what_a_trait_can_not_be() {
    says(
        rpc("", "trait X<T> {}"),
        &["can't be generic", "one trait per type"],
    );
    says(rpc("", "trait X<'a> {}"), &["can't be generic"]);
    says(rpc("", "trait X<const N: usize> {}"), &["can't be generic"]);
    says(
        rpc("", "trait X where Self: Clone {}"),
        &["where clause", "supertraits"],
    );
    says(rpc("", "unsafe trait X {}"), &["remove `unsafe`"]);
    says(method("type A;"), &["associated types"]);
    says(method("const A: u8;"), &["associated consts"]);
    says(method("some_macro! {}"), &["`async fn` methods only"]);
    good(rpc("", "trait X {}"));
}

#[test]
fn what_a_method_can_not_be() {
    says(method("fn a(&self);"), &["write `async fn a`"]);
    says(
        method("async fn a<T>(&self, t: u8);"),
        &["a method can't be generic"],
    );
    says(method("async fn a(&self) where Self: Sized;"), &["where clause"]);
    says(method("async unsafe fn a(&self);"), &["remove `unsafe`"]);
    says(method("async extern \"C\" fn a(&self);"), &["remove `extern`"]);
    says(method("pub async fn a(&self);"), &["no visibility"]);
    for receiver in [
        "&mut self",
        "self",
        "mut self",
        "self: &Self",
        "self: Arc<Self>",
        "&'static self",
    ] {
        says(method(&format!("async fn a({receiver});")), &["take `&self`"]);
    }
    says(
        method("async fn a();"),
        &["method `a` has no receiver", "take `&self`"],
    );
    says(method("async fn a(b: u8);"), &["no receiver"]);
    says(
        method("async fn new(&self);"),
        &["`new` is the name of a generated function", "#[rpc(name"],
    );
    says(
        method("async fn contract(&self);"),
        &["`contract` is the name of a generated function"],
    );
}

#[test]
fn what_an_argument_can_not_be() {
    says(
        method("async fn a(&self, (a, b): (u8, u8));"),
        &["a name, not a pattern", "`name: Type`"],
    );
    says(method("async fn a(&self, _: u8);"), &["needs a name"]);
    says(
        method("async fn a(&self, mut b: u8) {}"),
        &["write `b` instead of `mut b`"],
    );
    says(
        method("async fn a(&self, b: &str);"),
        &["argument `b`", "use `String` instead of `&str`"],
    );
    says(
        method("async fn a(&self, b: &[Vec<u8>]);"),
        &["use `Vec<Vec<u8>>` instead of `&[Vec<u8>]`"],
    );
    says(
        method("async fn a(&self, b: &std::path::Path);"),
        &["use `PathBuf`"],
    );
    says(
        method("async fn a(&self, b: &mut Goal);"),
        &["use `Goal` instead of `&mut Goal`"],
    );
    says(method("async fn a(&self, b: Option<&str>);"), &["use `String`"]);
    says(
        method("async fn a(&self, b: Cow<'_, str>);"),
        &["can't borrow for `'_`"],
    );
    good(method(
        "async fn a(&self, b: Cow<'static, str>, c: [u8; { 1 + 1 }], d: HashMap<String, Vec<Option<u8>>>);",
    ));
    says(method("async fn a(&self, b: Self);"), &["`Self` is the handler"]);
    says(
        method("async fn a(&self, b: Vec<Self::Item>);"),
        &["`Self` is the handler"],
    );
    says(
        method("async fn a(&self, b: impl Into<u8>);"),
        &["`impl Trait`", "concrete type"],
    );
    says(
        method("async fn a(&self, b: Box<dyn Error>);"),
        &["`dyn Trait`", "an enum"],
    );
    says(
        method("async fn a(&self, b: fn(u8));"),
        &["a function can't travel"],
    );
    says(method("async fn a(&self, b: *const u8);"), &["raw pointer"]);
}

#[test]
fn what_a_reply_can_not_be() {
    says(method("async fn a(&self) -> Self;"), &["`Self`", "the reply"]);
    says(
        method("async fn a(&self) -> &str;"),
        &["the reply can't be borrowed", "`String`"],
    );
    says(
        method("async fn a(&self) -> Result<u8, &'static str>;"),
        &["the error can't be borrowed"],
    );
    says(method("async fn a(&self) -> impl Clone;"), &["`impl Trait`"]);
    says(
        method("async fn a(&self) -> Result<u8, Box<dyn Error>>;"),
        &["`dyn Trait`", "the error"],
    );
    says(
        method("async fn a(&self) -> Result<u8>;"),
        &["`Result<u8>` hides its error type", "write `Result<T, E>`"],
    );
    says(
        method("async fn a(&self) -> io::Result<u8>;"),
        &["`io::Result<u8>` hides"],
    );
    says(
        method("async fn a(&self) -> fmt::Result;"),
        &["`fmt::Result` hides"],
    );
    good(method("async fn a(&self) -> ::std::result::Result<Vec<u8>, E>;"));
}

#[test]
fn the_context() {
    good(method("async fn a(&self, a: u8, ctx: &commlib::RequestContext);"));
    good(method("async fn a(&self, #[rpc(context)] ctx: &Ctx);"));
    says(
        method("async fn a(&self, ctx: RequestContext);"),
        &["taken as `&RequestContext`"],
    );
    says(
        method("async fn a(&self, ctx: &mut RequestContext);"),
        &["taken as `&RequestContext`"],
    );
    says(
        method("async fn a(&self, a: &RequestContext, b: &RequestContext);"),
        &["two context arguments"],
    );
    says(
        method("async fn a(&self, a: &MessageContext);"),
        &["is `&RequestContext`, not `MessageContext`"],
    );
    says(
        topic_method("async fn a(&self, a: &RequestContext, m: u8);"),
        &["is `&MessageContext`, not `RequestContext`"],
    );
}

#[test]
fn addresses_are_unique_and_short() {
    says(
        method("async fn a(&self); #[rpc(name = \"a\")] async fn b(&self);"),
        &["`x.a` is the address of method `a` already"],
    );
    good(method(
        "#[cfg(p)] async fn a(&self); #[cfg(q)] #[rpc(name = \"a\")] async fn b(&self);",
    ));
    let long = "l".repeat(200);
    says(
        method(&format!("#[rpc(name = \"{long}\")] async fn a(&self);")),
        &["has 202 bytes, more than 200"],
    );
    says(
        topic_method("async fn a(&self, m: u8); #[topic(\"a\")] async fn b(&self, m: u8);"),
        &["`x.a` is the address"],
    );
    says(
        topic_method(
            "#[topic(\"{x}\")] async fn a(&self, x: u8, m: u8); #[topic(\"{y}\")] async fn b(&self, y: u8, m: u8);",
        ),
        &["`x.{}` is the address of method `a`"],
    );
}

#[test]
fn all_errors_at_once() {
    let (output, errors) = rpc(
        "nmae = \"a\", crate = 1",
        "unsafe trait X<T> { fn a(&mut self, b: &str, (c, d): (u8, u8)) -> Self; type B; #[rpc(oneawy)] async fn e(&self); }",
    );
    // two keys, unsafe, generic, sync, receiver, reference, pattern, Self, associated type, key
    assert_eq!(errors.len(), 11, "{errors:#?}");
    assert!(
        output.contains("trait X<T>")
            && output.contains("struct XClient")
            && output.contains("struct XServer"),
        "{output}"
    );
}

#[test]
fn a_syntax_error_in_a_body_is_left_to_the_compiler() {
    let item = super::tokens("trait X { async fn a(&self) { let = ; } }");
    let (output, errors) = crate::expand::rpc_service(proc_macro2::TokenStream::new(), item);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(output.to_string().contains("let = ;"), "{output}");
}

#[test]
fn an_unparsable_trait_is_emitted_untouched() {
    let item = super::tokens("trait X { async fn a(&self,,); }");
    let (output, errors) = crate::expand::rpc_service(proc_macro2::TokenStream::new(), item.clone());
    assert_eq!(errors.len(), 1);
    assert_eq!(output.to_string(), item.to_string());
}
