//! Keywords as names: raw identifiers in Rust, the bare word on the wire.

#[commlib::rpc_service]
trait r#Match {
    async fn r#match(&self, r#type: u8, r#fn: u8) -> u8;
    #[rpc(body)]
    async fn r#loop(&self, r#in: u8);
}

#[commlib::topic]
trait r#Box {
    #[topic("move.{type}")]
    async fn r#move(&self, r#type: String, r#ref: u8);
    async fn r#yield(&self, r#ref: u8);
}

struct Handler;

impl r#Match for Handler {
    async fn r#match(&self, r#type: u8, r#fn: u8) -> u8 {
        r#type + r#fn
    }
    async fn r#loop(&self, _: u8) {}
}

pub(crate) fn main() {
    let _ = MatchServer::new(Handler);
}
