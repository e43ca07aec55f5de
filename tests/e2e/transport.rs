//! What lies below the protocols: TLS, HTTP/2, proxies, browsers, and what strangers can cost.

mod authority;
mod browsers;
mod certificates;
mod http2;
mod proxy;
mod strangers;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Config, Handshake, Socket, TestNode, eventually};

use self::authority::{Authority, Pair};
use crate::support::{BINARY, BUDGET, JOB};

/// The host that the certificates of these tests are for.
const HOST: &str = "node.test";

/// A node that speaks TLS on its public listener.
struct TlsNode {
    node: TestNode,
    token: String,
    authority: Authority,
    files: TempDir,
    tls: Arc<ClientConfig>,
    http: reqwest::Client,
}

impl TlsNode {
    async fn start() -> Self {
        Self::with(Config::scripted()).await
    }

    async fn with(config: Config) -> Self {
        let authority = Authority::new("test authority");
        let files = tempfile::tempdir().expect("temporary files can be made");
        let config = with_certificate(config, &files, "server", &authority.server(&[HOST]));
        let node = TestNode::start_unready(BINARY, config).await;
        let token = node.job_and_token("alice", JOB, BUDGET);
        let tls = client(&authority.pem(), None);
        let http = http(&node, &tls);
        let found = Self { node, token, authority, files, tls, http };
        eventually("the node is ready", async || {
            let response = found.http.get(found.url("/health/ready")).send().await.ok()?;
            (response.status() == 200).then_some(())
        })
        .await;
        found
    }

    fn url(&self, path: &str) -> String {
        url(&self.node, path)
    }

    /// A socket by this client's TLS, with the token.
    async fn socket(&self, path: &str, tls: &Arc<ClientConfig>) -> Result<Socket, Handshake> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        let url = self.url(path).replace("https", "wss");
        Socket::open_tls(&url, self.node.public(), Arc::clone(tls), &headers).await
    }
}

fn url(node: &TestNode, path: &str) -> String {
    let address: SocketAddr = node.public().parse().expect("an address");
    format!("https://{HOST}:{}{path}", address.port())
}

/// A client that finds [`HOST`] at the node.
fn http(node: &TestNode, tls: &ClientConfig) -> reqwest::Client {
    let address = node.public().parse().expect("an address");
    let builder = reqwest::Client::builder().no_proxy().resolve(HOST, address).tls_backend_preconfigured(tls.clone());
    builder.build().expect("a client")
}

/// What a client believes and shows.
fn client(authorities: &str, identity: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities) {
        roots.add(certificate).expect("an authority");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(certificates(&pair.certificate), key).expect("a pair")
        }
    })
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|certificate| certificate.expect("PEM")).collect()
}

/// Writes a pair and names it in a section.
fn with_certificate(config: Config, files: &TempDir, section: &str, pair: &Pair) -> Config {
    let (certificate, key) = write_pair(files, section, pair);
    config.set(&format!("{section}.tls_cert"), quoted(&certificate)).set(&format!("{section}.tls_key"), quoted(&key))
}

fn write_pair(files: &TempDir, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
    (write(files, &format!("{name}.crt"), &pair.certificate), write(files, &format!("{name}.key"), &pair.key))
}

fn write(files: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = files.path().join(name);
    std::fs::write(&path, text).expect("the folder is writable");
    path
}

fn quoted(path: &std::path::Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// How often a limit was hit.
async fn hits(node: &TestNode, limit: &str) -> f64 {
    node.metrics().await.get("llm_node_limit_hits_total", &[("limit", limit)]).expect("a series")
}

/// How many handshakes of the public listener ended so.
async fn handshakes(node: &TestNode, outcome: &str) -> f64 {
    let labels = [("listener", "public"), ("outcome", outcome)];
    node.metrics().await.get("llm_node_tls_handshakes_total", &labels).expect("a series")
}

/// The `code` of an error, in either shape.
fn code(body: &Value) -> &str {
    body.pointer("/error/code").or_else(|| body.get("error_type")).and_then(Value::as_str).unwrap_or("?")
}
