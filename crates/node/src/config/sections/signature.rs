use std::{path::PathBuf, time::Duration};

use crate::config::{
    schema::section,
    value::{Authority, PublicKeyText, Secret, choice},
};

choice! {
    /// How clients sign.
    SignatureAlgorithm {
        /// Ed25519 (RFC 8032).
        Ed25519 = "ed25519",
    }
}

section! {
    /// Messages that clients sign, and the key by which the node signs.
    Signature as "signature" {
        /// Whether clients may sign messages. Messages with a token that is bound to a key, and for a job that asks for it,
        /// must be signed; without signatures such tokens and jobs are of no use.
        live enabled: bool = true;
        /// Whether clients must sign every message. Operators' routes are not concerned.
        live required: bool = false;
        /// How clients sign.
        restart algorithm: SignatureAlgorithm = SignatureAlgorithm::Ed25519;
        /// Age at which a signed HTTP request or a proof of a key is no longer taken.
        restart max_age: Duration = Duration::from_secs(60), Duration::from_secs(5)..=Duration::from_secs(3600);
        /// Nonces of signed HTTP requests and ids of key proofs that are remembered, so that none is taken twice. What cannot
        /// be remembered is refused; one key takes a quarter at most.
        live nonces_max: usize = 100_000, 16..=10_000_000;
        /// Hosts (`node.example.com`, `node.example.com:8443`) that signed HTTP requests and key proofs may be addressed to.
        /// Where none is named, the `Host` header is believed, and what was signed for another node could be sent to this
        /// one: name them on a public node.
        live authorities: Vec<Authority> = Vec::new();
        /// Key file (PKCS#8 PEM of Ed25519, mode 0600) that becomes the node's first key; its own copy is kept in
        /// `<data dir>/keys/`. Without one, the node generates its first key. Later keys come by `llm-node keys`.
        restart private_key: Option<PathBuf> = None;
        /// Encrypts the key files in `<data dir>/keys/`, and opens encrypted ones.
        restart private_key_passphrase: Option<Secret> = None;
        /// The public key (64 hexadecimal digits) that must be the active one: with another, the node does not start.
        restart public_key: Option<PublicKeyText> = None;
        /// PKCS#11 module, a shared library, of a hardware token. With one, new keys are made in the token and never leave it.
        restart pkcs11_module: Option<PathBuf> = None;
        /// Label of the token.
        restart pkcs11_token: Option<String> = None;
        /// The user's PIN of the token.
        restart pkcs11_pin: Option<Secret> = None;
    }
}
