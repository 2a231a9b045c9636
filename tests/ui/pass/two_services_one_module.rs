//! Several traits in one module, with methods of the same names, do not meet.

#[commlib::rpc_service]
pub trait First {
    async fn add(&self, a: u8) -> u8;
    async fn move_to(&self) -> u8;
    #[allow(non_snake_case, reason = "it makes the same words as the method above")]
    async fn move__to(&self) -> u8;
}

#[commlib::rpc_service]
pub trait Second {
    async fn add(&self, a: u8) -> u8;
}

#[commlib::topic]
pub trait Third {
    async fn add(&self, a: u8);
}

#[commlib::topic]
pub trait Fourth {
    async fn add(&self, a: u8);
}

pub(crate) fn main() {}
