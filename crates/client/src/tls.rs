use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_tungstenite::Connector;

use crate::error::ClientError;

/// Which certificates of a node are believed.
#[derive(Debug, Clone, Copy, Default)]
pub enum Trust<'a> {
    /// Those that an authority of Mozilla's list vouches for.
    #[default]
    PublicAuthorities,
    /// Those that one of these authorities vouches for, and no others (PEM).
    Authorities(&'a [u8]),
    /// Exactly this one, whatever names and dates it has (PEM; the first certificate counts). For a node whose
    /// certificate file is at hand.
    Certificate(&'a [u8]),
}

/// What the client shows to a node that asks for a certificate (PEM).
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, and those that lead to its authority.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// How `https` and `wss` addresses are connected to. Clones are cheap.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    /// TLS 1.3 or 1.2.
    ///
    /// # Errors
    /// [`ClientError::InvalidTls`] when the PEM texts hold no certificate, no key, or no pair.
    pub fn new(trust: Trust<'_>, identity: Option<Identity<'_>>) -> Result<Self, ClientError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let builder = match trust {
            Trust::PublicAuthorities => {
                builder.with_root_certificates(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()))
            }
            Trust::Authorities(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem)? {
                    roots.add(certificate).map_err(invalid)?;
                }
                builder.with_root_certificates(roots)
            }
            Trust::Certificate(pem) => {
                let expected = certificates(pem)?.swap_remove(0);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { expected, provider }))
            }
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| ClientError::InvalidTls("there is no private key that can be read".into()))?;
                builder.with_client_auth_cert(certificates(certificate)?, key).map_err(invalid)?
            }
        };
        // WebSockets are upgrades of HTTP/1.1 (RFC 6455).
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn config(&self) -> ClientConfig {
        (*self.0).clone()
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::Rustls(Arc::clone(&self.0))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ClientError::InvalidTls("there is no certificate in PEM form".into())),
        Err(error) => Err(ClientError::InvalidTls(format!("a certificate is not PEM: {error}"))),
    }
}

fn invalid(error: Error) -> ClientError {
    ClientError::InvalidTls(error.to_string())
}

/// Believes one certificate. The handshake proves that the node has its key.
#[derive(Debug)]
struct Pinned {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        let check = |trust: Trust<'_>, identity: Option<Identity<'_>>, part: &str| {
            let error = Tls::new(trust, identity).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        };
        const EMPTY: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(Trust::Authorities(b""), None, "no certificate");
        check(Trust::Authorities(b"-----BEGIN CERTIFICATE-----\n"), None, "not PEM");
        check(Trust::Authorities(EMPTY), None, "cannot be used");
        check(Trust::Certificate(b"nothing"), None, "no certificate");
        let identity = Some(Identity { certificate: EMPTY, key: b"" });
        check(Trust::PublicAuthorities, identity, "no private key");
        assert!(Tls::new(Trust::PublicAuthorities, None).is_ok());
    }
}
