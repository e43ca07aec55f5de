//! What the node signs about an answer, so that whoever holds the node's public keys can later check what was asked,
//! what was answered and what was counted. docs/protocol.md says how; crate `signing` signs and verifies.

mod digest;
#[cfg(test)]
mod tests;

use std::fmt;

pub use digest::{Digest, InvalidDigest};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{JobId, ReceiptId, RequestId, SessionId, Subject};

/// The only version so far. Another has other members, and a verifier that does not know it says so.
pub const VERSION: u32 = 1;
/// Largest receipt that is read, in bytes. One has about 1,300.
pub const RECEIPT_BYTES_MAX: usize = 16 * 1024;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// A limit of tokens was reached.
    Length,
    /// The client cancelled or went away, or the node stopped.
    Cancelled,
    /// It failed after it had begun.
    Error,
}

impl Ending {
    /// Every ending, for pre-created metric series.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Error];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A receipt of version 1. Every member is always there; what does not apply is `null`. Members that are not these, or
/// that come twice, make it none: two readers must never see two things under one signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub receipt_id: ReceiptId,
    /// The request that was answered.
    pub request_id: RequestId,
    /// The node: the RFC 7638 thumbprint of its first key, which stays when keys change.
    pub node_id: String,
    /// The native session, where the request belonged to one.
    #[serde(deserialize_with = "nullable")]
    pub session_id: Option<SessionId>,
    /// What was charged.
    pub job_id: JobId,
    /// Who asked.
    pub subject: Subject,
    /// The model that answered.
    pub model: String,
    /// SHA-256 of its weights, where the node has them.
    #[serde(deserialize_with = "nullable")]
    pub model_digest: Option<Digest>,
    /// The route or protocol that the request came by.
    pub endpoint: String,
    /// SHA-256 of the exact bytes that the client sent: the HTTP body, or the text message.
    pub request_hash: Digest,
    /// SHA-256 of the exact text that was delivered, reasoning and answer in the order of generation, as UTF-8.
    pub output_hash: Digest,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens that were generated and delivered: what the job was charged.
    pub output_tokens: u32,
    /// How it ended.
    pub finish_reason: Ending,
    /// When the request arrived, in milliseconds since 1970-01-01T00:00:00Z.
    pub started_at: u64,
    /// When the answer ended, likewise.
    pub finished_at: u64,
    /// Its place among the job's receipts, from 1 without gaps.
    pub sequence: u64,
    /// SHA-256 of the job's previous receipt, canonical and with its signature; `null` for the first.
    #[serde(deserialize_with = "nullable")]
    pub previous: Option<Digest>,
    /// The key that signed it: the RFC 7638 thumbprint, `kid` in the node's JWKS.
    pub key_id: String,
    /// Ed25519 over the canonical receipt without this member, in 128 hexadecimal digits. Empty until it is signed.
    pub signature: String,
}

/// A member that may be `null` and may not be missing: its absence would be signed otherwise than it is read.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// A signed receipt with its canonical text, as it is stored and sent.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    receipt: Receipt,
    json: String,
    hash: Digest,
}

impl SignedReceipt {
    /// `json` is `receipt` in canonical form (RFC 8785), `hash` the SHA-256 of that.
    #[must_use]
    pub fn new(receipt: Receipt, json: String, hash: Digest) -> Self {
        debug_assert_eq!(receipt.signature.len(), 128, "it is signed");
        Self { receipt, json, hash }
    }

    /// The receipt.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Its canonical text.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// What the job's next receipt calls `previous`.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }
}

impl fmt::Debug for SignedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.receipt.fmt(f)
    }
}
