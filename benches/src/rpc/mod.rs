//! The systems that do RPC, and how one is started by its name.

pub(crate) mod floor;
pub(crate) mod lapin;
pub(crate) mod ours;
pub(crate) mod redis_batched;
pub(crate) mod redis_naive;

use serde::{Deserialize, Serialize};

/// Arguments of `add`, as every system sends them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct AddArgs {
    pub(crate) a: i64,
    pub(crate) b: i64,
}

/// Result of `add`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Sum {
    pub(crate) c: i64,
}

/// Argument of `echo`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EchoArgs {
    pub(crate) text: String,
}

/// Result of `echo`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Echoed {
    pub(crate) text: String,
}

/// A method of the hand-written systems: its name and what it does.
pub(crate) trait Method: Send + Sync + 'static {
    type Args: Serialize + for<'de> Deserialize<'de> + Send + 'static;
    type Reply: Serialize + for<'de> Deserialize<'de> + Send + 'static;
    const NAME: &'static str;
    fn run(args: Self::Args) -> Self::Reply;
}

pub(crate) struct Add;
pub(crate) struct Echo;

impl Method for Add {
    type Args = AddArgs;
    type Reply = Sum;
    const NAME: &'static str = "add";
    fn run(args: AddArgs) -> Sum {
        Sum { c: args.a + args.b }
    }
}

impl Method for Echo {
    type Args = EchoArgs;
    type Reply = Echoed;
    const NAME: &'static str = "echo";
    fn run(args: EchoArgs) -> Echoed {
        Echoed { text: args.text }
    }
}
