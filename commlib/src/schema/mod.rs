//! Contracts as values: what a trait promises to its peers, in JSON Schema (draft 2020-12), for people, for other
//! languages, and for a test that notices when it changes.
//!
//! Every generated struct has `contract()`, which needs no implementation and no broker. [`assert_exported`] compares
//! contracts with the files of a folder:
//!
//! ```no_run
//! # fn contracts() -> Vec<commlib::Contract> { Vec::new() }
//! #[test]
//! fn contracts_are_exported() {
//!     // Run with COMMLIB_UPDATE_SCHEMAS=1 to write the files.
//!     commlib::schema::assert_exported("schemas", contracts());
//! }
//! ```

mod builder;
mod export;

use schemars::Schema;
use serde::Serialize;
use serde_json::{Map, Value};

pub use builder::{CaptureSchemas, ContractBuilder};
pub use export::{Drift, assert_exported, check_exported, export};

/// The version of the form of exported contracts.
pub const FORMAT: u32 = 1;

/// What a trait promises. Its JSON is canonical: the same trait gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Contract {
    /// The version of this form.
    pub commlib: u32,
    /// The name of the service, or the prefix of the topics.
    pub name: String,
    /// What the trait's documentation says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What is promised.
    #[serde(flatten)]
    pub body: Body,
    /// The types that the schemas refer to, by name.
    #[serde(rename = "$defs", skip_serializing_if = "Map::is_empty")]
    pub definitions: Map<String, Value>,
}

/// What is promised, by pattern.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// A service.
    Rpc {
        /// Its methods in the order of the trait.
        methods: Vec<Method>,
    },
    /// Topics.
    Topics {
        /// The topics in the order of the trait.
        topics: Vec<Topic>,
    },
}

/// A method of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Method {
    /// Its name on the wire.
    pub name: String,
    /// Where requests go.
    pub address: String,
    /// What its documentation says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The request's body.
    pub request: Schema,
    /// The reply's body; absent where nothing is returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Schema>,
    /// The method's own error; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Schema>,
    /// How long a call may take, in ms, unless the caller says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it may run twice.
    pub idempotent: bool,
    /// Whether it is never answered.
    pub oneway: bool,
    /// Whether its requests are kept until they were handled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Topic {
    /// The name of the trait's method.
    pub name: String,
    /// The address, with the names of variable levels in braces.
    pub address: String,
    /// What its documentation says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The variable levels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    /// Whether its messages are kept for groups that are away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
    /// The message.
    pub message: Schema,
}

/// A variable level of a topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Level {
    /// Its name in the address.
    pub name: String,
    /// Its values, written as text in the address.
    pub schema: Schema,
}

impl Contract {
    /// The canonical JSON, indented, with a newline at the end. Keys of schemas are sorted.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Going through a value sorts the keys of objects; a contract has nothing that JSON can't hold.
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut text = serde_json::to_string_pretty(&sorted(value)).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The name of the file that it is exported to: its name and `.json`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.json", self.name)
    }
}

/// Sorts the keys of all objects: serde_json keeps insertion order when any crate of the build asks it to.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
