use std::{io, path::PathBuf};

/// Why certificate files cannot be used. Each says which file, and none quotes it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operating system refused.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It is not a file of certificates or keys.
    #[error("{path} has more than {bytes_max} bytes", path = path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// What is allowed.
        bytes_max: u64,
    },
    /// No certificate in PEM form, or one that is not X.509.
    #[error("{path} is no file of certificates: {reason}", path = path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No private key in PEM form, or one of a kind that TLS does not have.
    #[error("{path} is no private key: {reason}", path = path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key in {key} does not belong to the certificate in {certificate}",
        key = key.display(), certificate = certificate.display())]
    NoPair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// It would replace one that is still valid.
    #[error("the certificate in {path} has ended", path = path.display())]
    Ended {
        /// Which file.
        path: PathBuf,
    },
}
