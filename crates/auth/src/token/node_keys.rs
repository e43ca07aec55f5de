//! What the token service needs of the node's Ed25519 keys.

use std::sync::Arc;

use signing::{Signature, Signer};

/// What a key of the node says about a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// It is by this key, and the key may vouch for tokens now.
    Valid,
    /// It is not by this key.
    Invalid,
    /// The key was retired, and the overlap is over.
    Retired,
    /// The node has no such key.
    Unknown,
}

/// The node's Ed25519 keys.
pub trait NodeKeys: Send + Sync {
    /// The key that signs now, and its name.
    ///
    /// # Errors
    /// Why there is none, for the log.
    fn active(&self) -> Result<(String, Arc<dyn Signer>), String>;

    /// Verifies a token's signature by the key named `kid`. Counted by the keyring.
    fn verify(&self, kid: &str, message: &[u8], signature: &Signature) -> KeyVerdict;
}
