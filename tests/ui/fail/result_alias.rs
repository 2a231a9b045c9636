//! An alias can't hide a `Result`.

type Answer = Result<u8, commlib::NoError>;

#[commlib::rpc_service]
trait Service {
    async fn call(&self) -> Answer;
}

fn main() {}
