//! Secure connections: with real brokers that ask for client certificates, and with everything that can be wrong with a
//! certificate or a port. Each failure is typed, comes soon, and is never answered with a plain connection.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use commlib::{ConnectError, Node, NodeBuilder, Tls};
use commlib_tests::{Program, RabbitMq, RedisServer, TempDir, unique};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(60);

/// An authority, and certificates that it gave.
struct Certificates {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Given {
    certificate: String,
    key: String,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Who gave a certificate is found by this name.
        params
            .distinguished_name
            .push(DnType::CommonName, unique("authority"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new("tls");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// The path of a file in PEM: `ca.pem`, or what was [kept](Self::keep).
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn give(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Given {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        change(&mut params);
        Given {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes a certificate of a host to `<name>.pem`, its key to `<name>.key`.
    fn keep(&self, name: &str, host: &str) {
        let given = self.give(host, |_| {});
        fs::write(self.path(&format!("{name}.pem")), given.certificate).unwrap();
        fs::write(self.path(&format!("{name}.key")), given.key).unwrap();
    }

    /// The settings of a URL for this authority, and for a client certificate of this name.
    fn settings(&self, client: Option<&str>) -> String {
        let mut settings = format!("?ca={}", self.path("ca.pem"));
        if let Some(name) = client {
            let (certificate, key) = (
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.key")),
            );
            settings.push_str(&format!("&cert={certificate}&key={key}"));
        }
        settings
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The process has chosen a provider with which no connection can be made: the library does not use it.
fn spoil_the_default_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let useless = CryptoProvider {
            cipher_suites: Vec::new(),
            ..ring::default_provider()
        };
        useless.install_default().unwrap();
    });
}

/// Why TLS failed. It has to be that, and soon.
async fn refused(builder: NodeBuilder, url: &str) -> String {
    let begin = Instant::now();
    let error = builder.connect(url).await.expect_err(url);
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{url}: {:?}",
        begin.elapsed()
    );
    match error {
        ConnectError::Tls { reason, .. } => reason,
        other => panic!("{url}: {other:?}"),
    }
}

/// Makes a server that shows this certificate, and then nothing.
async fn shows(given: Given) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(given.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(given.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = acceptor.accept(socket).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    spoil_the_default_provider();
    let (ours, others) = (Certificates::new(), Certificates::new());
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2200, 1, 1);
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        Given {
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    };
    for (given, expected) in [
        (ours.give("127.0.0.1", expired), "expired"),
        (ours.give("127.0.0.1", early), "not valid yet"),
        (ours.give("wrong.example", |_| {}), "another host"),
        (others.give("127.0.0.1", |_| {}), "not trusted"),
        (self_signed, "not trusted"),
    ] {
        let address = shows(given).await;
        for scheme in ["rediss", "amqps"] {
            let url = format!("{scheme}://{address}");
            let tls = Tls::new().authority_file(ours.path("ca.pem"));
            let reason = refused(Node::builder().tls(tls), &url).await;
            assert!(reason.contains(expected), "{expected}: {reason}");
            // The same when the URL says it.
            let reason = refused(Node::builder(), &format!("{url}{}", ours.settings(None))).await;
            assert!(reason.contains(expected), "{expected}: {reason}");
        }
    }
}

#[tokio::test]
async fn unusable_settings_are_refused_before_anything_is_sent() {
    spoil_the_default_provider();
    let certificates = Certificates::new();
    certificates.keep("a", "a.example");
    certificates.keep("b", "b.example");
    let path = |name| certificates.path(name);
    let closed = free_port();
    for scheme in ["rediss", "amqps"] {
        let url = format!("{scheme}://127.0.0.1:{closed}");
        for (tls, expected) in [
            (Tls::new().authority_file(path("missing.pem")), "can't be read"),
            (Tls::new().authority_file(path("a.key")), "holds no certificate"),
            (Tls::new().authority_pem(""), "holds no certificate"),
            (
                Tls::new().certificate_files(path("a.pem"), path("a.pem")),
                "holds no key",
            ),
            (
                Tls::new().certificate_files(path("a.pem"), path("b.key")),
                "no pair",
            ),
        ] {
            let reason = refused(Node::builder().tls(tls), &url).await;
            assert!(reason.contains(expected), "{expected}: {reason}");
        }
    }
    // Never a plain connection for one who set up TLS.
    for url in ["redis://127.0.0.1", "amqp://127.0.0.1", "memory://"] {
        let tls = Tls::new().authority_file(path("ca.pem"));
        let error = Node::builder().tls(tls).connect(url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Settings(_)), "{url}: {error}");
    }
    let pem = Tls::new().certificate_pem("canary", "canary");
    assert!(!format!("{pem:?} {:?}", Node::builder().tls(pem.clone())).contains("canary"));
}

async fn quickstart(url: &str, authority: &Path) {
    let program = Program::example("quickstart")
        .await
        .env("COMMLIB_URL", url)
        .env("SSL_CERT_FILE", authority);
    let fine = program.run(LIMIT).await;
    assert!(fine.code == Some(0), "{fine:?}");
    assert!(
        fine.stdout.iter().any(|line| line.contains("add(1, 2) = 3")),
        "{fine:?}"
    );
}

/// What a broker does at a port for TLS that asks for a client certificate, and at a plain one.
async fn check(scheme: &str, secure: u16, plain: u16, certificates: &Certificates) {
    spoil_the_default_provider();
    certificates.keep("client", "client.example");
    let others = Certificates::new();
    others.keep("client", "client.example");
    let url = format!("{scheme}://127.0.0.1:{secure}");

    // By the URL, by the builder, and with the authorities of the system.
    let with = certificates.settings(Some("client"));
    let node = Node::connect(&format!("{url}{with}")).await.unwrap();
    node.shutdown(LIMIT).await.unwrap();
    let read = |name| fs::read(certificates.path(name)).unwrap();
    let tls = Tls::new()
        .authority_pem(read("ca.pem"))
        .certificate_pem(read("client.pem"), read("client.key"));
    let node = Node::builder().tls(tls).connect(&url).await.unwrap();
    node.shutdown(LIMIT).await.unwrap();
    let without_authority = with.replace(&format!("ca={}&", certificates.path("ca.pem")), "");
    let authority = certificates.path("ca.pem");
    quickstart(&format!("{url}{without_authority}"), Path::new(&authority)).await;

    // No certificate, one of another authority, another host, no TLS there.
    let reason = refused(Node::builder(), &format!("{url}{}", certificates.settings(None))).await;
    assert!(reason.contains("certificate"), "{reason}");
    let stranger = Tls::new()
        .authority_file(certificates.path("ca.pem"))
        .certificate_files(others.path("client.pem"), others.path("client.key"));
    let reason = refused(Node::builder().tls(stranger), &url).await;
    assert!(reason.contains("certificate"), "{reason}");
    let reason = refused(Node::builder(), &format!("{scheme}://localhost:{secure}{with}")).await;
    assert!(reason.contains("another host"), "{reason}");
    let reason = refused(Node::builder(), &format!("{scheme}://127.0.0.1:{plain}{with}")).await;
    assert!(reason.contains("probably a port without TLS"), "{reason}");

    // And the other way round.
    let begin = Instant::now();
    let plainly = scheme.trim_end_matches('s').replace("redi", "redis");
    let error = Node::connect(&format!("{plainly}://127.0.0.1:{secure}"))
        .await
        .unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_tls() {
    let certificates = Certificates::new();
    certificates.keep("server", "127.0.0.1");
    let port = free_port();
    let path = |name| certificates.path(name);
    let arguments = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", path("server.pem")),
        ("--tls-key-file", path("server.key")),
        ("--tls-ca-cert-file", path("ca.pem")),
        ("--tls-auth-clients", "yes".to_owned()),
    ];
    let arguments: Vec<&str> = arguments
        .iter()
        .flat_map(|(name, value)| [*name, value.as_str()])
        .collect();
    let server = RedisServer::start_with(&arguments).await;
    check("rediss", port, server.port(), &certificates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_over_tls() {
    let certificates = Certificates::new();
    certificates.keep("server", "127.0.0.1");
    let port = free_port();
    let path = |name| certificates.path(name);
    let config = format!(
        "listeners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        path("ca.pem"),
        path("server.pem"),
        path("server.key"),
    );
    let server = RabbitMq::start_with(&config).await;
    check("amqps", port, server.port(), &certificates).await;
}

/// A broker that knows only versions that are no longer safe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_are_refused() {
    let certificates = Certificates::new();
    certificates.keep("server", "localhost");
    let port = free_port();
    let _broker = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificates.path("server.pem"),
        "--tls-key-file",
        &certificates.path("server.key"),
        "--tls-auth-clients",
        "no",
        "--tls-protocols",
        "TLSv1.1",
        "--tls-ciphers",
        "DEFAULT:@SECLEVEL=0",
    ])
    .await;
    let url = format!("rediss://localhost:{port}{}", certificates.settings(None));
    let reason = refused(Node::builder(), &url).await;
    assert!(reason.to_lowercase().contains("version"), "{reason}");
}
