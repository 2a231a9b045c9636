//! TLS to Redis.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::ConnectError;
use crate::transport::BrokerUrl;
use crate::transport::tls::{Client, Tls as Settings};

pub(super) struct Tls {
    client: Client,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(url: &BrokerUrl, settings: &Settings, limit: Duration) -> Result<Self, ConnectError> {
        let name = ServerName::try_from(url.host().to_owned()).map_err(|_| ConnectError::Tls {
            address: url.address(),
            reason: "the host is no name that a certificate can be for".into(),
        })?;
        let client = Client::new(url, settings, limit)?;
        Ok(Self { client, name })
    }

    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let connector = TlsConnector::from(self.client.config.clone());
        self.client
            .bounded(connector.connect(self.name.clone(), stream))
            .await
    }

    /// The connection ended before the server said anything.
    pub(super) fn ended_early(&self, reason: &str) -> String {
        self.client.ended_early(reason)
    }
}
