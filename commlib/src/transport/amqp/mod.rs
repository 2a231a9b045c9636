//! stub
use super::*;
pub(crate) async fn connect(_: &BrokerUrl, _: TransportOptions) -> Result<Arc<dyn Transport>, ConnectError> {
    unimplemented!()
}
