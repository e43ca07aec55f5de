//! What exactly came from the client.

use sha2::{Digest as _, Sha256};

use crate::signatures::Proof;

/// The bytes of a request, by their hash, and who proved to have written them.
#[derive(Debug, Clone)]
pub struct Received {
    /// SHA-256 of the bytes: an HTTP body, a WebSocket message, or the payload inside a signed one.
    pub hash: [u8; 32],
    /// The key that signed them, where they were signed.
    pub proof: Option<Proof>,
}

impl Received {
    /// Bytes that nobody signed.
    #[must_use]
    pub fn unsigned(bytes: &[u8]) -> Self {
        Self::new(bytes, None)
    }

    /// Bytes, and the proof of who signed them.
    #[must_use]
    pub fn new(bytes: &[u8], proof: Option<Proof>) -> Self {
        Self { hash: Sha256::digest(bytes).into(), proof }
    }
}
