//! A message owns what it is made of.

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Item<'a>(std::borrow::Cow<'a, str>);

#[commlib::rpc_service]
trait Service {
    async fn call(&self, a: std::borrow::Cow<'_, str>) -> Item<'static>;
}

fn main() {}
