//! Types with commas, `>>`, arrays, tuples and static lifetimes in them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Page<T, const N: usize> {
    items: Vec<T>,
}

type Shorthand = HashMap<String, Vec<Option<u8>>>;

#[commlib::rpc_service]
trait Service {
    async fn call(
        &self,
        a: Vec<Option<Vec<u8>>>,
        b: (u8, (String, bool)),
        c: [u8; 4],
        d: Cow<'static, str>,
        e: Page<BTreeMap<String, u8>, { 1 + 1 }>,
        f: Shorthand,
    ) -> Result<Page<(u8, Vec<u8>), 3>, commlib::NoError>;
    async fn unit(&self, a: ()) -> ();
}

pub(crate) fn main() {}
