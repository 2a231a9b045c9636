//! Starts a broker and waits to be killed: the tests of the kit look what is left then.
//!
//! Usage: `leave-behind redis|rabbitmq|shared-redis`. Prints the process id of the broker (the port of a shared
//! one) and its folder's URL, then waits for the end of its input.

use commlib_tests::{RabbitMq, RedisServer};

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
        _ => panic!("usage: leave-behind redis|rabbitmq|shared-redis"),
    }
}

fn wait() {
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}
