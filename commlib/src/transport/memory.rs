//! stub
use super::*;
pub(crate) fn connect(_: &BrokerUrl, _: &TransportOptions) -> Arc<dyn Transport> {
    unimplemented!()
}
