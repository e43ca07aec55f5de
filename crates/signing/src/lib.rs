//! What is signed in the protocol and how: one place for the node and for clients. Nothing here does I/O or asks for
//! the time.
//!
//! Every signature is Ed25519 (RFC 8032), verified strictly and one by one: canonical encodings only, no key and no
//! commitment of small order, the equation without the cofactor. What is accepted here, every other verifier accepts.
//!
//! The signed byte strings of the different purposes can never be equal (domain separation by their first bytes):
//!
//! | purpose | begins with |
//! |---|---|
//! | a frame on the native socket ([`frame`]) | `llm-node/v1/message` NUL |
//! | an HTTP request ([`http`], RFC 9421) | `"@method"` |
//! | a key proof ([`dpop`], RFC 9449) and tokens | `eyJ`, the base64url of `{"` |
//! | a key of the node about the next one ([`statement`]) | `llm-node/v1/key-statement` NUL |
//! | a receipt ([`receipt`]) | `{"` |

pub mod canonical;
pub mod dpop;
pub mod frame;
pub mod http;
pub mod jwk;
mod public;
pub mod receipt;
mod secret;
mod signature;
pub mod statement;
mod window;

pub use jwk::{Jwk, JwkSet, KeyStatus};
pub use public::{BadSignature, KeyError, PUBLIC_KEY_BYTES, PublicKey};
pub use secret::{SecretKey, SignError, Signer};
pub use signature::{SIGNATURE_BYTES, Signature};
pub use statement::KeyStatement;
pub use window::Window;
