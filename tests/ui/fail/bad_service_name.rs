//! Names on the wire have few characters, joined by dots.

#[commlib::rpc_service(name = "robot arm")]
trait One {}

#[commlib::rpc_service(name = "robot..arm")]
trait Two {}

#[commlib::topic(prefix = "")]
trait Three {}

#[commlib::topic(prefix = "sensors.*")]
trait Four {}

fn main() {}
