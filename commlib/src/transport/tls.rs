//! What secure connections are made with: whom to trust and who we are, the same for every broker.

use std::fmt;
use std::path::{Path, PathBuf};

use super::BrokerUrl;

/// Whom secure connections (`rediss://`, `amqps://`) trust, and the certificate that this side shows.
///
/// Without it the authorities of the system are trusted, and no certificate is shown. The URL can name the files, too:
/// `?ca=FILE&cert=FILE&key=FILE`; what [`NodeBuilder::tls`](crate::NodeBuilder::tls) is given takes the place of that.
///
/// The server's certificate is always checked: its authority, its time, and that it is for the host of the URL. There is no
/// way to switch that off. TLS is 1.2 or 1.3. Files are read when the node is connected, as PEM.
///
/// ```no_run
/// # async fn connect() -> Result<(), commlib::ConnectError> {
/// use commlib::{Node, Tls};
/// let tls = Tls::new().authority_file("ca.pem").certificate_files("me.pem", "me.key");
/// let node = Node::builder().tls(tls).connect("rediss://broker.example").await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Tls {
    authority: Option<Pem>,
    certificate: Option<(Pem, Pem)>,
}

impl Tls {
    /// The authorities of the system, and no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts only the certificate authorities in this file, in place of those of the system.
    pub fn authority_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authority = Some(Pem::File(path.into()));
        self
    }

    /// Trusts only these certificate authorities, in place of those of the system.
    pub fn authority_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(Pem::Text(pem.into()));
        self
    }

    /// Shows the certificate in the first file, followed there by those between it and its authority, with the key in the
    /// second, which is not encrypted.
    pub fn certificate_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// Shows this certificate with this key; see [`certificate_files`](Self::certificate_files).
    pub fn certificate_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some((Pem::Text(certificate.into()), Pem::Text(key.into())));
        self
    }

    /// What a URL says, if it says something.
    pub(crate) fn of(url: &BrokerUrl) -> Self {
        let file = |name| {
            url.setting(name)
                .map(|path| Pem::File(Path::new(path).to_owned()))
        };
        Self {
            authority: file("ca"),
            certificate: file("cert").zip(file("key")),
        }
    }

    /// Whether it says nothing.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Certificates or a key. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq)]
enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Text(_) => f.write_str("***"),
        }
    }
}

#[cfg(all(feature = "tls", any(feature = "redis", feature = "amqp")))]
pub(super) use client::{Client, reason};

#[cfg(all(feature = "tls", any(feature = "redis", feature = "amqp")))]
mod client {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{CertificateError, ClientConfig, RootCertStore};

    use super::{Pem, Tls};
    use crate::error::ConnectError;
    use crate::transport::BrokerUrl;

    /// How this side makes secure connections.
    #[derive(Clone)]
    pub(in crate::transport) struct Client {
        pub(in crate::transport) config: Arc<ClientConfig>,
        address: String,
        /// How long a handshake may take.
        limit: Duration,
        shows_certificate: bool,
    }

    impl Client {
        /// Reads what it needs. `limit` is for connecting in all: a port that does not know TLS may never say so, so the
        /// handshake has half of it, and the other half is left to the login.
        pub(in crate::transport) fn new(
            url: &BrokerUrl,
            tls: &Tls,
            limit: Duration,
        ) -> Result<Self, ConnectError> {
            let address = url.address();
            let config = config(tls).map_err(|reason| ConnectError::Tls {
                address: address.clone(),
                reason,
            })?;
            Ok(Self {
                config: Arc::new(config),
                address,
                limit: limit / 2,
                shows_certificate: tls.certificate.is_some(),
            })
        }

        /// Runs a handshake.
        pub(in crate::transport) async fn bounded<T>(
            &self,
            handshake: impl Future<Output = io::Result<T>>,
        ) -> Result<T, String> {
            match tokio::time::timeout(self.limit, handshake).await {
                Ok(result) => result.map_err(|error| reason(&error)),
                Err(_) => Err(format!(
                    "nothing at the port answered the greeting of TLS within {:?}; it is probably a port without TLS",
                    self.limit
                )),
            }
        }

        /// What it means that a connection ended after the handshake and before the broker said anything: in TLS 1.3 it
        /// judges our certificate only then.
        pub(in crate::transport) fn ended_early(&self, reason: &str) -> String {
            if self.shows_certificate {
                format!(
                    "the broker closed the connection after the handshake: {reason}; it may not take the client certificate"
                )
            } else {
                format!(
                    "the broker closed the connection after the handshake: {reason}; it may want a client certificate: \
                     give it with `?cert=FILE&key=FILE` or `Node::builder().tls(…)`"
                )
            }
        }

        #[cfg(feature = "amqp")]
        pub(in crate::transport) fn error(&self, reason: String) -> ConnectError {
            ConnectError::Tls {
                address: self.address.clone(),
                reason,
            }
        }
    }

    fn config(tls: &Tls) -> Result<ClientConfig, String> {
        // Named here, so that neither another crate's choice of a provider nor that of the process can matter.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots(tls.authority.as_ref())?);
        let Some((certificate, key)) = &tls.certificate else {
            return Ok(config.with_no_client_auth());
        };
        let chain = certificates("client certificate", certificate)?;
        let what = "key of the client certificate";
        let key = PrivateKeyDer::from_pem_slice(&key.read(what)?).map_err(|_| {
            format!("the {what} holds no key in PEM; one that is encrypted has to be decrypted first")
        })?;
        config.with_client_auth_cert(chain, key).map_err(|error| {
            format!("the client certificate and its key are no pair that can be used: {error}")
        })
    }

    fn roots(authority: Option<&Pem>) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(authority) = authority {
            for certificate in certificates("certificate authority", authority)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("the certificate authority can't be used: {error}"))?;
            }
            return Ok(roots);
        }
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found
                .errors
                .first()
                .map_or_else(String::new, |error| format!(" ({error})"));
            return Err(format!(
                "the system has no root certificates{why}; name those to trust with `?ca=FILE`"
            ));
        }
        Ok(roots)
    }

    fn certificates(what: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
        let pem = pem.read(what)?;
        let found = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| format!("the {what} is no PEM"))?;
        if found.is_empty() {
            return Err(format!("the {what} holds no certificate in PEM"));
        }
        Ok(found)
    }

    impl Pem {
        fn read(&self, what: &str) -> Result<Vec<u8>, String> {
            match self {
                Self::File(path) => std::fs::read(path)
                    .map_err(|error| format!("the {what} can't be read from {}: {error}", path.display())),
                Self::Text(text) => Ok(text.clone()),
            }
        }
    }

    /// What failed, in words that say what to do.
    pub(in crate::transport) fn reason(error: &io::Error) -> String {
        let cause = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let what = match cause {
            Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the certificate of the broker has expired"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the certificate of the broker is not valid yet"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "the certificate of the broker is for another host"
                }
                CertificateError::UnknownIssuer => {
                    "the certificate of the broker is of an authority that is not trusted; name it with `?ca=FILE`"
                }
                _ => "the certificate of the broker is not valid",
            },
            Some(rustls::Error::InvalidMessage(_)) => {
                "what answers does not speak TLS; it is probably a port without TLS"
            }
            _ if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was closed during the handshake; it is probably a port without TLS"
            }
            _ => return error.to_string(),
        };
        format!("{what} ({error})")
    }
}
