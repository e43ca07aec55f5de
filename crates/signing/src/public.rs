//! Public keys: what makes one acceptable, its names, and strict verification.

#[cfg(test)]
mod tests;

use std::{fmt, sync::LazyLock};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use curve25519_dalek::{constants::EIGHT_TORSION, edwards::CompressedEdwardsY};
use pkcs8::{
    Document,
    der::pem::{LineEnding, PemLabel},
    spki::SubjectPublicKeyInfoRef,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Jwk, Signature};

/// Length in bytes: a point's y coordinate and the sign of x (RFC 8032 section 5.1.5).
pub const PUBLIC_KEY_BYTES: usize = 32;
/// DER of a SubjectPublicKeyInfo with the algorithm id-Ed25519 up to the key's bytes (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why something is not a key, or not a signature's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes.
    #[error("a public key has 32 bytes: 64 hexadecimal digits")]
    Length,
    /// Not hexadecimal.
    #[error("there is a character that is not a hexadecimal digit")]
    Hex,
    /// Not 64 bytes.
    #[error("a signature has 64 bytes: 128 hexadecimal digits")]
    SignatureLength,
    /// No point of the curve, or not the one encoding of it.
    #[error("these bytes are not an Ed25519 public key")]
    NotOnCurve,
    /// A point of small order: signatures by it prove nothing.
    #[error("the key is weak: it is a point of small order, for which anyone can make signatures")]
    Weak,
    /// Another algorithm, or a JWK without its members.
    #[error("not a JWK of type OKP with the curve Ed25519 and `x` of 32 bytes in base64url (RFC 8037)")]
    Jwk,
    /// Not PEM, or not of an Ed25519 key.
    #[error("not a PEM file of an Ed25519 key (`openssl genpkey -algorithm ed25519` makes one)")]
    Pem,
    /// An encrypted file, and no passphrase.
    #[error("the key file is encrypted and needs its passphrase")]
    Encrypted,
    /// The passphrase does not fit.
    #[error("the passphrase is wrong, or the key file is damaged or encrypted in a way that is not supported")]
    Passphrase,
    /// The random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// The signature is not by this key over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the message and the key")]
pub struct BadSignature;

/// An Ed25519 public key: canonical, on the curve, and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// From 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`], [`KeyError::NotOnCurve`], [`KeyError::Weak`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let compressed = CompressedEdwardsY::from_slice(bytes).map_err(|_| KeyError::Length)?;
        let point = compressed.decompress().ok_or(KeyError::NotOnCurve)?;
        // Two encodings of one point would be two names of one key.
        if point.compress() != compressed {
            return Err(KeyError::NotOnCurve);
        }
        if point.is_small_order() {
            return Err(KeyError::Weak);
        }
        Ok(Self(compressed.to_bytes()))
    }

    /// From exactly 64 hexadecimal digits, of either case.
    ///
    /// # Errors
    /// [`KeyError::Length`], [`KeyError::Hex`], and those of [`Self::from_bytes`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        if text.len() != 2 * PUBLIC_KEY_BYTES {
            return Err(KeyError::Length);
        }
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::Hex)?;
        Self::from_bytes(&bytes)
    }

    /// From a JWK of type OKP (RFC 8037 section 2).
    ///
    /// # Errors
    /// [`KeyError::Jwk`], and those of [`Self::from_bytes`].
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err(KeyError::Jwk);
        }
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(&jwk.x).map_err(|_| KeyError::Jwk)?)
    }

    /// From a PEM file `PUBLIC KEY` (RFC 8410), as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`KeyError::Pem`], and those of [`Self::from_bytes`].
    pub fn from_spki_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, document) = Document::from_pem(pem.trim()).map_err(|_| KeyError::Pem)?;
        SubjectPublicKeyInfoRef::validate_pem_label(label).map_err(|_| KeyError::Pem)?;
        Self::from_bytes(document.as_bytes().strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Pem)?)
    }

    /// A PEM file `PUBLIC KEY` that OpenSSL reads.
    #[must_use]
    pub fn to_spki_pem(&self) -> String {
        let der = [SPKI_PREFIX.as_slice(), &self.0].concat();
        Document::try_from(der)
            .and_then(|document| document.to_pem(SubjectPublicKeyInfoRef::PEM_LABEL, LineEnding::LF))
            .expect("44 bytes that begin with their own length are a DER document")
    }

    /// 64 lowercase hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// The JWK with its thumbprint as `kid`, for signatures by Ed25519 (RFC 9864).
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        Jwk {
            kid: Some(self.thumbprint()),
            r#use: Some("sig".to_owned()),
            alg: Some("Ed25519".to_owned()),
            ..Jwk::bare(URL_SAFE_NO_PAD.encode(self.0))
        }
    }

    /// The name of the key: base64url of SHA-256 over its required members (RFC 7638, RFC 8037 section 2).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0);
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    /// Whether `signature` is by this key over `message`: RFC 8032 section 5.1.7 without the cofactor, S below the
    /// group's order, and no R of small order (which only the key's owner could make, to deny it elsewhere).
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        static SMALL_ORDER: LazyLock<[[u8; 32]; 8]> =
            LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));
        if SMALL_ORDER.iter().any(|encoding| encoding == signature.commitment()) {
            return Err(BadSignature);
        }
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature.as_bytes()).map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_hex())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::from_hex(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_hex()
    }
}
