//! Calls of durable methods have keys, whether or not they are answered.

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct SoldOut;

impl std::fmt::Display for SoldOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sold out")
    }
}

impl std::error::Error for SoldOut {}

#[commlib::rpc_service]
trait Shop {
    #[rpc(durable, timeout = "2s")]
    async fn buy(&self, article: String) -> Result<u64, SoldOut>;
    #[rpc(durable, oneway, name = "remark")]
    async fn note(&self, ctx: &commlib::RequestContext, text: String);
    #[rpc(durable, body)]
    async fn order(&self, articles: Vec<String>);
}

async fn calls(node: &commlib::Node) -> Result<(), Box<dyn std::error::Error>> {
    let shop = ShopClient::new(node);
    let number: u64 = shop.buy(String::new()).idempotency_key("a").await?;
    let accepted: commlib::Accepted = shop.note(number.to_string()).idempotency_key("b").await?;
    assert!(accepted.durability.survives_restart());
    let retry = commlib::rpc::Retry::times(2);
    Ok(shop.order(vec![]).retry(retry).header("k", "v").await?)
}

pub(crate) fn main() {
    let _ = calls;
}
