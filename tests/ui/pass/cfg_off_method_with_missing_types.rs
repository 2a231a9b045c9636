//! A method that is configured away leaves nothing behind: its types need not exist.

#[commlib::rpc_service]
trait Service {
    #[cfg(any())]
    async fn gone(&self, a: DoesNotExist, #[rpc(default)] b: Neither) -> Result<NotThis, NorThat>;
    #[cfg(not(any()))]
    async fn here(&self) -> u8;
    #[cfg(any())]
    async fn either(&self) -> Missing;
    #[cfg(not(any()))]
    async fn either(&self) -> u8;
}

#[commlib::topic]
trait Topics {
    #[cfg(any())]
    #[topic("a.{b}")]
    async fn gone(&self, a: DoesNotExist, b: Neither);
    async fn here(&self, a: u8);
}

// Below the attribute, the trait is ours to configure away.
#[commlib::rpc_service]
#[cfg(any())]
trait AllGone {
    async fn gone(&self, a: DoesNotExist);
}

struct Handler;

impl Service for Handler {
    async fn here(&self) -> u8 {
        1
    }
    async fn either(&self) -> u8 {
        2
    }
}

pub(crate) fn main() {
    let _ = ServiceServer::new(Handler);
}
