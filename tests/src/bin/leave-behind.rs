//! Starts a broker and waits to be killed: the tests of the kit look what is left then.
//!
//! Usage: `leave-behind redis|rabbitmq|shared-redis|failing`. Prints the process id of the broker (the port of a
//! shared one) and a URL of it, then waits for the end of its input; `failing` panics instead.

use std::time::Duration;

use commlib_tests::{Program, RabbitMq, RedisServer};

#[tokio::main]
async fn main() {
    let kind = std::env::args().nth(1).unwrap_or_default();
    match kind.as_str() {
        "redis" => {
            let broker = RedisServer::start().await;
            println!("{} {}", broker.pid().unwrap_or_default(), broker.unix_url());
            wait();
        }
        "rabbitmq" => {
            let broker = RabbitMq::start().await;
            println!("{} {}", broker.pid().unwrap_or_default(), broker.url());
            wait();
        }
        "shared-redis" => {
            let broker = RedisServer::shared().await;
            println!("{} {}", broker.port(), broker.unix_url());
            wait();
        }
        "failing" => {
            let broker = RedisServer::start().await;
            println!("{} {}", broker.pid().unwrap_or_default(), broker.unix_url());
            let mut child = Program::new("sh")
                .args(["-c", "echo said; echo cried >&2; sleep 1000"])
                .start();
            child.wait_line("said", Duration::from_secs(10)).await;
            broker.restart().await;
            panic!("as asked");
        }
        _ => panic!("usage: leave-behind redis|rabbitmq|shared-redis|failing"),
    }
}

fn wait() {
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}
