//! Other messaging crates, doing what the bench of commlib measures. `serve` and `drive` are the two processes of a
//! system; `commlib-bench` starts them.

mod kanin;
mod nats;
mod ruststream_lapin_topics;
mod ruststream_rpc;
mod ruststream_streams;
mod tarpc;

use anyhow::bail;
use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Is the server process of a system.
    Serve {
        system: String,
        #[arg(long, default_value = "")]
        broker: String,
    },
    /// Is the client process of a system.
    Drive {
        system: String,
        #[arg(long, default_value = "")]
        broker: String,
    },
}

/// Arguments of `add`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct AddArgs {
    a: i64,
    b: i64,
}

/// Result of `add`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sum {
    c: i64,
}

/// Argument and result of `echo`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Text {
    text: String,
}

fn main() -> anyhow::Result<()> {
    let role = Arguments::parse().role;
    let (Role::Serve { system, .. } | Role::Drive { system, .. }) = &role;
    let (name, single) = match system.strip_suffix(".ct") {
        Some(name) => (name.to_owned(), true),
        None => (system.clone(), false),
    };
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match role {
            Role::Serve { broker, .. } => serve(&name, &broker).await,
            Role::Drive { broker, .. } => drive(&name, &broker).await,
        }
    })
}

async fn serve(name: &str, url: &str) -> anyhow::Result<()> {
    match name {
        "tarpc.tcp" => tarpc::serve_tcp(url).await,
        "nats" => nats::serve(url).await,
        "kanin" => kanin::serve(url).await,
        "ruststream.w64" => ruststream_rpc::serve(url).await,
        "ps.ruststream.rabbit.pipe64" => ruststream_lapin_topics::subscribe(url).await,
        "ps.ruststream.stream.pipe64" => ruststream_streams::subscribe(url).await,
        _ => bail!("{name} has no server"),
    }
}

async fn drive(name: &str, url: &str) -> anyhow::Result<()> {
    match name {
        "tarpc.inproc" => tarpc::drive_in_process().await,
        "tarpc.tcp" => tarpc::drive_tcp(url).await,
        "nats" => nats::drive(url).await,
        "kanin" => kanin::drive(url).await,
        "ruststream.w64" => ruststream_rpc::drive(url).await,
        "ps.ruststream.rabbit.pipe64" => ruststream_lapin_topics::publish(url).await,
        "ps.ruststream.stream.pipe64" => ruststream_streams::publish(url).await,
        _ => bail!("{name} has no client"),
    }
}
