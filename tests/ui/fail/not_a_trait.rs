//! The attributes go on a trait.

#[commlib::rpc_service]
struct Service;

#[commlib::topic]
impl Service {}

fn main() {}
