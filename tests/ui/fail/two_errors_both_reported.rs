//! All errors of a trait are reported at once.

#[commlib::rpc_service(nmae = "s")]
trait Service {
    async fn one(&self, a: &str);
    fn two(&mut self);
    #[rpc(timeout = "soon", oneawy)]
    async fn three(&self) -> Self;
}

fn main() {}
