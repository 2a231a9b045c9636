//! Secure connections as a user makes them: the quickstart over `rediss://` and `amqps://`, with the certificate
//! authority of the system replaced by one of the test (`SSL_CERT_FILE`).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use commlib_tests::{Finished, Program, RabbitMq, RedisServer, TempDir};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const LIMIT: Duration = Duration::from_secs(60);

/// An authority, and certificates that it gave.
struct Certificates {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new("tls");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key for a host.
    fn give(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{host}.{kind}"));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        (
            path("pem").display().to_string(),
            path("key").display().to_string(),
        )
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn redis(certificates: &Certificates, host: &str) -> (RedisServer, u16) {
    let (certificate, key) = certificates.give(host);
    let (port, authority) = (free_port(), certificates.authority());
    let (port_text, authority) = (port.to_string(), authority.display().to_string());
    let arguments = [
        "--tls-port",
        &port_text,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ];
    (RedisServer::start_with(&arguments).await, port)
}

async fn rabbitmq(certificates: &Certificates, host: &str) -> (RabbitMq, u16) {
    let (certificate, key) = certificates.give(host);
    let (port, authority) = (free_port(), certificates.authority());
    let config = format!(
        "listeners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {certificate}\n\
         ssl_options.keyfile = {key}\nssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
        authority.display()
    );
    (RabbitMq::start_with(&config).await, port)
}

async fn quickstart(url: &str, authority: &std::path::Path) -> Finished {
    let program = Program::example("quickstart")
        .await
        .env("COMMLIB_URL", url)
        .env("SSL_CERT_FILE", authority);
    program.run(LIMIT).await
}

/// With the right authority it works; with another one, to another host, or without TLS at the port, it does not.
async fn check(scheme: &str, port: u16, wrong_host: u16, plain: u16, certificates: &Certificates) {
    let url = |port| format!("{scheme}://127.0.0.1:{port}");
    let fine = quickstart(&url(port), &certificates.authority()).await;
    assert!(fine.code == Some(0), "{fine:?}");
    assert!(
        fine.stdout.iter().any(|line| line.contains("add(1, 2) = 3")),
        "{fine:?}"
    );
    let others = Certificates::new();
    for (why, port, authority) in [
        ("another authority", port, others.authority()),
        ("another host's certificate", wrong_host, certificates.authority()),
        ("no TLS there", plain, certificates.authority()),
    ] {
        let refused = quickstart(&url(port), &authority).await;
        assert_eq!(refused.code, Some(6), "{why}: {refused:?}");
        let told = refused.stderr.join("\n");
        // A plain Redis takes the greeting of TLS for the beginning of a command and waits for more.
        let silent = scheme == "rediss" && port == plain && told.contains("did not answer within");
        assert!(
            silent || told.contains("no secure connection to 127.0.0.1"),
            "{why}: {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_tls() {
    let certificates = Certificates::new();
    let (server, port) = redis(&certificates, "127.0.0.1").await;
    let (_other, wrong_host) = redis(&certificates, "wrong.example").await;
    check("rediss", port, wrong_host, server.port(), &certificates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_over_tls() {
    let certificates = Certificates::new();
    let (server, port) = rabbitmq(&certificates, "127.0.0.1").await;
    let (_other, wrong_host) = rabbitmq(&certificates, "wrong.example").await;
    check("amqps", port, wrong_host, server.port(), &certificates).await;
}
