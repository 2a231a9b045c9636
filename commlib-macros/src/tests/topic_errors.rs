//! The errors that only topics have.

use super::{good, says, topic, topic_method};

#[test]
fn topics() {
    good(topic_method(
        "#[topic(\"a.{b}.{c}\")] async fn a(&self, c: u8, ctx: &MessageContext, m: M, b: B);",
    ));
    good(topic_method(
        "#[topic(\"a.{type}\")] async fn a(&self, r#type: u8, m: M);",
    ));
    says(
        topic_method("#[topic(\"a.{b}\")] async fn a(&self, m: M);"),
        &["`{b}` is no argument", "add `b: Type`"],
    );
    says(
        topic_method("#[topic(\"{b}.{b}\")] async fn a(&self, b: B, m: M);"),
        &["captured twice"],
    );
    says(
        topic_method("#[topic(\"x{b}\")] async fn a(&self, b: B, m: M);"),
        &["a capture is a whole level"],
    );
    says(
        topic_method("#[topic(\"{}\")] async fn a(&self, m: M);"),
        &["bad capture `{}`"],
    );
    says(
        topic_method("#[topic(\"a.*\")] async fn a(&self, m: M);"),
        &["has a wildcard", "write `{name}`"],
    );
    says(
        topic_method("#[topic(\"a..b\")] async fn a(&self, m: M);"),
        &["empty level"],
    );
    says(
        topic_method("#[topic(\"a b\")] async fn a(&self, m: M);"),
        &["bad level `a b`"],
    );
    says(
        topic_method("#[topic(\"{ctx}\")] async fn a(&self, ctx: &MessageContext, m: M);"),
        &["never travels"],
    );
    says(
        topic_method("async fn a(&self);"),
        &["no argument is left for the message"],
    );
    says(
        topic_method("#[topic(\"{m}\")] async fn a(&self, m: M);"),
        &["no argument is left"],
    );
    says(
        topic_method("async fn a(&self, a: u8, b: u8);"),
        &["both `a` and `b`", "one struct", "`{b}`"],
    );
    says(
        topic_method("async fn a(&self, a: u8) -> u8;"),
        &["has no reply", "rpc_service"],
    );
    says(
        topic_method("#[topic(\"a\", lasting)] async fn a(&self, m: M);"),
        &[
            "unknown key `lasting`",
            "the topic as a string, or one of `durable`",
        ],
    );
    says(
        topic_method("#[topic(\"a\", \"b\")] async fn a(&self, m: M);"),
        &["given twice"],
    );
    says(
        topic_method("#[topic(prefix = \"a\")] async fn a(&self, m: M);"),
        &["`prefix` belongs in `#[topic(…)]` on a trait"],
    );
    says(
        topic_method("#[rpc(name = \"a\")] async fn a(&self, m: M);"),
        &["`#[rpc]` has no meaning", "`#[topic(…)]`"],
    );
    for handler in [
        "",
        "-> ()",
        "-> Result<(), E>",
        "-> ::std::result::Result<(), Box<dyn Error + Send>>",
        "-> anyhow::Result<()>",
    ] {
        good(topic_method(&format!(
            "#[topic(\"a\", durable)] async fn a(&self, m: M) {handler};"
        )));
    }
    for handler in ["-> u8", "-> Result<u8, E>", "-> Option<()>"] {
        says(
            topic_method(&format!("#[topic(durable)] async fn a(&self, m: M) {handler};")),
            &["return nothing, or `Result<(), E>`"],
        );
    }
    says(
        topic_method("async fn a(&self, m: M) -> Result<(), E>;"),
        &["has no reply", "rpc_service"],
    );
    says(
        topic_method("#[topic(durable = true)] async fn a(&self, m: M);"),
        &["`durable` takes no value"],
    );
    says(
        topic("durable", "trait X {}"),
        &["`durable` belongs in `#[topic(…)]` on a method"],
    );
    says(topic_method("async fn new(&self, m: M);"), &["#[topic(\"…\")]"]);
    let many = (0..9).map(|n| format!("{{c{n}}}")).collect::<Vec<_>>().join(".");
    says(
        topic_method(&format!("#[topic(\"{many}\")] async fn a(&self, m: M);")),
        &["9 captures, more than 8"],
    );
    says(
        topic("prefix = \"\"", "trait X {}"),
        &["the prefix of topics can't be empty"],
    );
}
