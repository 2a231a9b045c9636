//! A contract is a plain trait.

#[commlib::rpc_service]
unsafe trait Service {
    async unsafe fn call(&self);
}

fn main() {}
