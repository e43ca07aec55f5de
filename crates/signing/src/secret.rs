//! Secret keys, and whoever else can sign.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use pkcs8::{
    EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument,
    der::pem::{LineEnding, PemLabel},
};
use zeroize::Zeroizing;

use crate::{KeyError, PublicKey, Signature};

/// Why nothing was signed: the key is elsewhere (a token, a service) and that failed. What it said, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signing failed: {0}")]
pub struct SignError(pub String);

/// Who can sign by one key, in memory or in a hardware token.
pub trait Signer: Send + Sync {
    /// The key that verifies what this signs.
    fn public_key(&self) -> PublicKey;

    /// Signs `message` (pure Ed25519, RFC 8032 section 5.1.6).
    ///
    /// # Errors
    /// [`SignError`] when the key is not in memory and its keeper fails.
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;
}

/// An Ed25519 secret key in memory. The library clears its memory when it is dropped; `Debug` shows nothing.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SecretKey {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        Self::new(Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?)
    }

    /// The key of a seed (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// None that is known: every seed makes a key.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Self::new(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Length)?)
    }

    /// From a PEM file `PRIVATE KEY`: PKCS#8 of version 1 or 2, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// [`KeyError::Pem`]; [`KeyError::Encrypted`] when it needs a passphrase.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, document) = SecretDocument::from_pem(pem.trim()).map_err(|_| KeyError::Pem)?;
        if EncryptedPrivateKeyInfoRef::validate_pem_label(label).is_ok() {
            return Err(KeyError::Encrypted);
        }
        PrivateKeyInfoRef::validate_pem_label(label).map_err(|_| KeyError::Pem)?;
        Self::new(Ed25519KeyPair::from_pkcs8(document.as_bytes()).map_err(|_| KeyError::Pem)?)
    }

    /// From a PEM file `ENCRYPTED PRIVATE KEY` (RFC 8018, PBES2 by scrypt or PBKDF2 and AES), as OpenSSL writes it.
    ///
    /// # Errors
    /// [`KeyError::Pem`], [`KeyError::Passphrase`].
    pub fn from_encrypted_pem(pem: &str, passphrase: &[u8]) -> Result<Self, KeyError> {
        let (label, document) = SecretDocument::from_pem(pem.trim()).map_err(|_| KeyError::Pem)?;
        EncryptedPrivateKeyInfoRef::validate_pem_label(label).map_err(|_| KeyError::Pem)?;
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| KeyError::Pem)?;
        let document = encrypted.decrypt(passphrase).map_err(|_| KeyError::Passphrase)?;
        Self::new(Ed25519KeyPair::from_pkcs8(document.as_bytes()).map_err(|_| KeyError::Pem)?)
    }

    /// A PEM file `ENCRYPTED PRIVATE KEY` that OpenSSL 3 reads: PBES2 with scrypt (2^14, 8, 1) and AES-256-CBC.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when memory runs out.
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> Result<String, KeyError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| KeyError::Pem)?;
        let document = PrivateKeyInfoRef::try_from(der.as_ref())
            .map_err(|_| KeyError::Pem)?
            .encrypt(passphrase)
            .map_err(|_| KeyError::Pem)?;
        let pem = document.to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF);
        pem.map(|pem| pem.to_string()).map_err(|_| KeyError::Pem)
    }

    /// A PEM file `PRIVATE KEY`, PKCS#8 of version 1, which OpenSSL reads. The text clears itself when dropped.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when memory runs out.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| KeyError::Pem)?;
        let document = SecretDocument::try_from(der.as_ref()).map_err(|_| KeyError::Pem)?;
        document.to_pem(PrivateKeyInfoRef::PEM_LABEL, LineEnding::LF).map_err(|_| KeyError::Pem)
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = PublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }
}

impl Signer for SecretKey {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let signature = self.pair.try_sign(message).map_err(|_| SignError("the library refused".to_owned()))?;
        Signature::from_bytes(signature.as_ref()).map_err(|error| SignError(error.to_string()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[9; 32]).unwrap()
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let pem = key().to_pkcs8_pem().unwrap();
        let encrypted = key().to_encrypted_pem(b"pass").unwrap();
        let check = |text: &str, expected: KeyError| {
            assert_eq!(SecretKey::from_pkcs8_pem(text).map(|_| ()), Err(expected), "{expected:?}");
        };
        check("", KeyError::Pem);
        check("-----BEGIN PRIVATE KEY-----", KeyError::Pem);
        check(&pem.replace("PRIVATE", "PUBLIC"), KeyError::Pem);
        check(&pem[..pem.len() - 40], KeyError::Pem);
        check(&key().public_key().to_spki_pem(), KeyError::Pem);
        // An X25519 key: the same form, another algorithm.
        check(
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----",
            KeyError::Pem,
        );
        check(&encrypted, KeyError::Encrypted);
        let wrong = SecretKey::from_encrypted_pem(&encrypted, b"Pass").map(|_| ());
        assert_eq!(wrong, Err(KeyError::Passphrase));
        assert_eq!(SecretKey::from_encrypted_pem(&pem, b"pass").map(|_| ()), Err(KeyError::Pem));
    }

    #[test]
    fn a_key_file_reads_back() {
        let pem = key().to_pkcs8_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "the label that OpenSSL reads");
        assert_eq!(SecretKey::from_pkcs8_pem(&pem).unwrap().public_key(), key().public_key());
        let encrypted = key().to_encrypted_pem(b"pass").unwrap();
        assert!(encrypted.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        let opened = SecretKey::from_encrypted_pem(&encrypted, b"pass").unwrap();
        assert_eq!(opened.public_key(), key().public_key());
        let message = b"both sign the same";
        assert_eq!(opened.sign(message), key().sign(message));
    }

    #[test]
    fn two_generated_keys_differ_and_none_is_printed() {
        let (one, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_ne!(one.public_key(), other.public_key());
        assert_eq!(format!("{one:?}"), "SecretKey(…)");
    }
}
