//! Builds contracts; called by generated code.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Map;

use super::{Body, Contract, FORMAT, Level, Method, Topic};
use crate::rpc::{MethodDescriptor, ServiceDescriptor};
use crate::topic::{TopicDescriptor, TopicsDescriptor};

/// Builds a contract method by method.
#[derive(Debug)]
pub struct ContractBuilder {
    generator: SchemaGenerator,
    contract: Contract,
}

impl ContractBuilder {
    /// The contract of a service.
    #[must_use]
    pub fn rpc(service: &'static ServiceDescriptor, doc: &str) -> Self {
        Self::new(service.name, doc, Body::Rpc { methods: Vec::new() })
    }

    /// The contract of a set of topics.
    #[must_use]
    pub fn topics(topics: &'static TopicsDescriptor, doc: &str) -> Self {
        Self::new(topics.prefix, doc, Body::Topics { topics: Vec::new() })
    }

    fn new(name: &str, doc: &str, body: Body) -> Self {
        Self {
            generator: SchemaSettings::draft2020_12().into_generator(),
            contract: Contract {
                commlib: FORMAT,
                name: name.to_owned(),
                description: paragraph(doc),
                body,
                definitions: Map::new(),
            },
        }
    }

    fn schema<T: JsonSchema>(&mut self) -> Schema {
        self.generator.subschema_for::<T>()
    }

    /// Adds a method with its request, reply and error types.
    pub fn method<Q: JsonSchema, T: JsonSchema, E: JsonSchema>(
        &mut self,
        method: &'static MethodDescriptor,
        doc: &str,
    ) {
        let is = |name: &str, wanted: &str| name == wanted;
        let request = self.schema::<Q>();
        let reply = (!is(&T::schema_id(), &<()>::schema_id())).then(|| self.schema::<T>());
        let error = (!is(&E::schema_id(), &crate::NoError::schema_id())).then(|| self.schema::<E>());
        if let Body::Rpc { methods } = &mut self.contract.body {
            methods.push(Method {
                name: method.name.to_owned(),
                address: method.address.to_string(),
                description: paragraph(doc),
                request,
                reply,
                error,
                timeout_ms: method
                    .timeout
                    .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
                idempotent: method.idempotent,
                oneway: method.oneway,
                durable: method.durable,
            });
        }
    }

    /// Adds a topic with its message type and the types of its variable levels.
    pub fn topic<M: JsonSchema, C: CaptureSchemas>(&mut self, topic: &'static TopicDescriptor, doc: &str) {
        let message = self.schema::<M>();
        let names = topic.template.captures().map(str::to_owned);
        let levels = names
            .zip(C::schemas(&mut self.generator))
            .map(|(name, schema)| Level { name, schema })
            .collect();
        if let Body::Topics { topics } = &mut self.contract.body {
            topics.push(Topic {
                name: topic.name.to_owned(),
                address: topic.template.to_string(),
                description: paragraph(doc),
                levels,
                durable: topic.durable,
                message,
            });
        }
    }

    /// The contract, with the definitions that its schemas refer to.
    #[must_use]
    pub fn finish(mut self) -> Contract {
        self.contract.definitions = self.generator.take_definitions(true);
        self.contract
    }
}

/// Documentation without the space that follows `///`.
fn paragraph(doc: &str) -> String {
    doc.lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

/// The schemas of the variable levels of a topic: a tuple of up to eight types, in the order of the template.
pub trait CaptureSchemas {
    /// One schema per level.
    fn schemas(generator: &mut SchemaGenerator) -> Vec<Schema>;
}

macro_rules! capture_schemas {
    ($($name:ident),*) => {
        impl<$($name: JsonSchema),*> CaptureSchemas for ($($name,)*) {
            fn schemas(_generator: &mut SchemaGenerator) -> Vec<Schema> {
                vec![$(_generator.subschema_for::<$name>()),*]
            }
        }
    };
}

capture_schemas!();
capture_schemas!(A);
capture_schemas!(A, B);
capture_schemas!(A, B, C);
capture_schemas!(A, B, C, D);
capture_schemas!(A, B, C, D, E);
capture_schemas!(A, B, C, D, E, F);
capture_schemas!(A, B, C, D, E, F, G);
capture_schemas!(A, B, C, D, E, F, G, H);
