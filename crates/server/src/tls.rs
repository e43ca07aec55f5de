//! TLS of a listener by rustls: 1.3, or 1.2 with clients that have no better (RFC 8446, RFC 5246; nothing older).
//!
//! Certificate and key are files, read again while the node runs. A new pair is taken whole or not at all, and only for
//! handshakes to come: open connections keep theirs. Sessions that can be resumed are in the node's memory and go with
//! their certificate, so nothing of a withdrawn one lives on. There is no early data: it can be replayed (RFC 8446
//! section 8).

mod certificate;
mod error;
mod metrics;

use std::{fs::File, io::Read as _, path::Path, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use tokio_rustls::TlsAcceptor;
use zeroize::{Zeroize as _, Zeroizing};

pub(crate) use self::metrics::Handshake;
pub use self::{certificate::Certificate, error::TlsError, metrics::TlsMetrics};

/// Largest file of certificates or keys in bytes; the bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// ALPN's name of HTTP/2 (RFC 9113 section 3.1).
pub(crate) const HTTP2: &[u8] = b"h2";
/// ALPN's name of HTTP/1.1 (RFC 7301 section 6).
const HTTP1: &[u8] = b"http/1.1";

/// In the head of an encrypted key, PKCS#8 or older.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// What becomes of a client that shows no certificate, where there is [`TlsFiles::client_ca`]. One that shows a
/// certificate of another authority is always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// The handshake fails.
    #[default]
    Required,
    /// It may go on.
    Optional,
}

/// The files of a listener, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC 1, not encrypted.
    pub key: PathBuf,
    /// Authorities of clients' certificates; without it, none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have one.
    pub client_auth: ClientAuth,
}

impl TlsFiles {
    /// Every file that is read.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca)
    }

    /// Reads and checks them, without using them.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn check(&self) -> Result<Certificate, TlsError> {
        Ok(Loaded::read(self)?.certificate)
    }
}

/// TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    listener: &'static str,
    files: TlsFiles,
    loaded: ArcSwap<Loaded>,
    metrics: TlsMetrics,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

impl Tls {
    /// Reads the files of `listener`, which is the label of its metrics. A certificate that has ended is taken: a node
    /// that starts and says so is easier to help than one that does not start.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(listener: &'static str, files: TlsFiles, metrics: &TlsMetrics) -> Result<Self, TlsError> {
        let loaded = Loaded::read(&files)?;
        metrics.certificate_loaded(listener, &loaded.certificate);
        Ok(Self { listener, files, loaded: ArcSwap::from_pointee(loaded), metrics: metrics.clone() })
    }

    /// Reads the files again. On an error the old certificate stays in force.
    ///
    /// # Errors
    /// What is wrong with which file; a certificate that has ended is no successor of one that has not.
    pub fn reload(&self) -> Result<Certificate, TlsError> {
        let result = Loaded::read(&self.files).and_then(|new| {
            let (old, now) = (self.certificate(), certificate::now());
            if new.certificate.has_ended(now) && !old.has_ended(now) {
                return Err(TlsError::Ended { path: self.files.certificate.clone() });
            }
            Ok(new)
        });
        self.metrics.reloaded(self.listener, result.is_ok());
        let new = result?;
        self.metrics.certificate_loaded(self.listener, &new.certificate);
        let certificate = new.certificate.clone();
        self.loaded.store(Arc::new(new));
        Ok(certificate)
    }

    /// Whose it is: `public` or `admin`.
    #[must_use]
    pub fn listener(&self) -> &'static str {
        self.listener
    }

    /// Where everything comes from.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// What is presented now.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        self.loaded.load().certificate.clone()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.loaded.load().config).into()
    }

    pub(crate) fn count(&self, handshake: Handshake) {
        self.metrics.handshake(self.listener, handshake);
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let certificate = Certificate::of(&chain)
            .map_err(|reason| TlsError::NoCertificate { path: files.certificate.clone(), reason })?;
        let pair = CertifiedKey::new(chain, signing_key(&files.key)?);
        pair.keys_match()
            .map_err(|_| TlsError::NoPair { certificate: files.certificate.clone(), key: files.key.clone() })?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Key { path: files.key.clone(), reason: error.to_string() })?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => builder.with_client_cert_verifier(client_verifier(path, files.client_auth)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }
}

fn client_verifier(path: &Path, mode: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let invalid = |reason: String| TlsError::NoCertificate { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|error| invalid(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let builder = match mode {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| invalid(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let invalid = |reason: &str| TlsError::NoCertificate { path: path.to_owned(), reason: reason.to_owned() };
    let found = found.map_err(|_| invalid("a section is cut short or is not base64"))?;
    if found.is_empty() { Err(invalid("there is no `BEGIN CERTIFICATE` in it")) } else { Ok(found) }
}

/// The parser's own errors can quote the file: a key's text is in no message.
fn signing_key(path: &Path) -> Result<Arc<dyn SigningKey>, TlsError> {
    let invalid = |reason: &str| TlsError::Key { path: path.to_owned(), reason: reason.to_owned() };
    let bytes = Zeroizing::new(read(path)?);
    let mut key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let encrypted = bytes.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
        invalid(if encrypted {
            "it is encrypted, and the node needs it as it is (mode 0600)"
        } else {
            "there is no whole `BEGIN PRIVATE KEY` in it"
        })
    })?;
    let signing = any_supported_type(&key);
    key.zeroize();
    signing.map_err(|_| invalid("it is none of RSA, ECDSA (P-256, P-384, P-521) or Ed25519"))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
