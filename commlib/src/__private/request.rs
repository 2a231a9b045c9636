//! The schema of a request object, field by field.
//!
//! Generated code calls this instead of deriving `JsonSchema`: the derive needs the standard prelude in scope and names the
//! `schemars` crate in a string, neither of which a user's module has to offer.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::Message;

/// Collects the fields of one request object.
#[derive(Debug)]
pub struct RequestSchema<'g> {
    generator: &'g mut SchemaGenerator,
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl<'g> RequestSchema<'g> {
    /// An object without fields.
    pub fn new(generator: &'g mut SchemaGenerator) -> Self {
        Self {
            generator,
            properties: Map::new(),
            required: Vec::new(),
        }
    }

    /// A field that must be there, unless its type takes absence for a value, as `Option` does.
    #[must_use]
    pub fn field<T: Message>(mut self, name: &str, doc: &str) -> Self {
        self.add::<T>(name, doc, None);
        if !may_be_absent::<T>() {
            self.required.push(name.into());
        }
        self
    }

    /// A field that has a default.
    #[must_use]
    pub fn optional<T: Message + Default>(mut self, name: &str, doc: &str) -> Self {
        let default = serde_json::to_value(T::default())
            .ok()
            .filter(|default| !default.is_null());
        self.add::<T>(name, doc, default);
        self
    }

    fn add<T: JsonSchema>(&mut self, name: &str, doc: &str, default: Option<Value>) {
        let mut schema = self.generator.subschema_for::<T>();
        if !doc.is_empty() {
            schema.insert("description".to_owned(), doc.into());
        }
        if let Some(default) = default {
            schema.insert("default".to_owned(), default);
        }
        self.properties.insert(name.to_owned(), schema.to_value());
    }

    /// The schema of the object.
    #[must_use]
    pub fn finish(self) -> Schema {
        let mut object = Map::new();
        object.insert("type".to_owned(), "object".into());
        if !self.properties.is_empty() {
            object.insert("properties".to_owned(), self.properties.into());
        }
        if !self.required.is_empty() {
            object.insert("required".to_owned(), self.required.into());
        }
        object.into()
    }
}

/// Asks the type itself, in the way in which serde's derive asks it for a missing field.
fn may_be_absent<T: DeserializeOwned>() -> bool {
    T::deserialize(Absent).is_ok()
}

struct Absent;

impl<'de> Deserializer<'de> for Absent {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("absent"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
