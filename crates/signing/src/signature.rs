//! A signature of 64 bytes, written as 128 hexadecimal digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::KeyError;

/// Length in bytes: R and S (RFC 8032 section 5.1.6).
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 signature. It may be wrong: [`PublicKey::verify`](crate::PublicKey::verify) says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// From R and S.
    ///
    /// # Errors
    /// [`KeyError::SignatureLength`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes.try_into().map(Self).map_err(|_| KeyError::SignatureLength)
    }

    /// From exactly 128 hexadecimal digits, of either case.
    ///
    /// # Errors
    /// [`KeyError::SignatureLength`], [`KeyError::Hex`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        if text.len() != 2 * SIGNATURE_BYTES {
            return Err(KeyError::SignatureLength);
        }
        let mut bytes = [0; SIGNATURE_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::Hex)?;
        Ok(Self(bytes))
    }

    /// R and S.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }

    /// The commitment R.
    pub(crate) fn commitment(&self) -> &[u8] {
        &self.0[..32]
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_hex(text)
    }
}

impl TryFrom<String> for Signature {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::from_hex(&text)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}
