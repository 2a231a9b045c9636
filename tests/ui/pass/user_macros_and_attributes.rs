//! The user's own attributes stay on the trait's method, and supertraits and default bodies are kept.
#![deny(warnings)]

trait Named {
    fn name(&self) -> String;
}

#[commlib::rpc_service]
trait Service: Named + Clone {
    async fn hello(&self, #[allow(unused_variables)] whom: String) -> String {
        if whom.is_empty() {
            return String::from("nobody");
        }
        self.helper(whom).await
    }
    #[rpc(name = "help")]
    async fn helper(&self, whom: String) -> String;
    #[inline]
    async fn checked(&self, a: u8) -> Result<u8, Failed> {
        let doubled = a.checked_mul(2).ok_or(Failed)?;
        Ok(doubled)
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

#[derive(Clone)]
struct Handler;

impl Named for Handler {
    fn name(&self) -> String {
        String::from("handler")
    }
}

impl Service for Handler {
    async fn helper(&self, whom: String) -> String {
        self.name() + &whom
    }
}

pub(crate) fn main() {
    let _ = ServiceServer::new(Handler);
}
