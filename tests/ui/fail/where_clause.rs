//! Bounds are supertraits.

#[commlib::rpc_service]
trait Service
where
    Self: Clone,
{
    async fn call(&self)
    where
        Self: Sized;
}

fn main() {}
