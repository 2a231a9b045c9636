//! What most programs need: `use commlib::prelude::*;`.

pub use crate::{
    Any, CallError, MessageContext, Node, NodeError, RecvError, RequestContext, Status, StatusCode,
    rpc_service, topic,
};
pub use schemars::JsonSchema;
pub use serde::{Deserialize, Serialize};
